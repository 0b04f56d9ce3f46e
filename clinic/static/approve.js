// Signs an approval: asks the server for the challenge over the exact statement, the device for a signature.
// Source: W3C Web Authentication Level 2, section 5.1.4.
"use strict";

const toBytes = (text) => {
  const padded = text.replaceAll("-", "+").replaceAll("_", "/").padEnd(Math.ceil(text.length / 4) * 4, "=");
  return Uint8Array.from(atob(padded), (character) => character.charCodeAt(0));
};
const toText = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

async function post(button, path, content) {
  const headers = { "Content-Type": "application/json", "X-Vigil-CSRF": button.dataset.csrf, "X-Vigil-View": button.dataset.view };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(content) });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.refused ?? "The server does not take a signature just now. Load the page again.");
  return said;
}

async function sign(button) {
  const path = `/api/approvals/${encodeURIComponent(button.dataset.request)}`;
  const { role } = button.dataset;
  const asked = await post(button, `${path}/challenge`, { role });
  const { options } = asked;
  options.challenge = toBytes(options.challenge);
  options.allowCredentials = (options.allowCredentials ?? []).map((one) => ({ ...one, id: toBytes(one.id) }));
  const made = await navigator.credentials.get({ publicKey: options });
  return post(button, path, {
    role,
    signed_at: asked.signed_at,
    assertion: {
      credential: made.id,
      client_data: toText(made.response.clientDataJSON),
      authenticator_data: toText(made.response.authenticatorData),
      signature: toText(made.response.signature),
    },
  });
}

for (const button of document.querySelectorAll(".sign-here")) {
  const said = button.parentElement.querySelector(".said");
  if (!window.PublicKeyCredential) {
    said.textContent = "This browser has no keys for this address. Use https or a name, or a key file.";
    continue;
  }
  button.disabled = false;
  button.addEventListener("click", async () => {
    button.disabled = true;
    said.textContent = "Follow what your device says.";
    try {
      const outcome = await sign(button);
      said.textContent = outcome.serving ? `Signed and promoted: serving row ${outcome.serving}.` : "Signed.";
      setTimeout(() => location.reload(), 1200);
    } catch (error) {
      said.textContent = error.name === "NotAllowedError" ? "The device said no, or nobody answered it." : error.message;
      button.disabled = false;
    }
  });
}

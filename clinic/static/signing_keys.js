// Registers a key: asks the server for a challenge, the device for a key, and hands the answer back.
// Source: W3C Web Authentication Level 2, section 5.1.3.
"use strict";

const button = document.getElementById("register");
const said = document.getElementById("said");

const toBytes = (text) => {
  const padded = text.replaceAll("-", "+").replaceAll("_", "/").padEnd(Math.ceil(text.length / 4) * 4, "=");
  return Uint8Array.from(atob(padded), (character) => character.charCodeAt(0));
};
const toText = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

async function post(path, content) {
  const headers = { "Content-Type": "application/json", "X-Vigil-CSRF": button.dataset.csrf, "X-Vigil-View": button.dataset.view };
  return fetch(path, { method: "POST", headers, body: content });
}

async function register() {
  const asked = await post("/api/account/keys/challenge", "{}");
  if (!asked.ok) throw new Error("The server does not take a key just now. Sign in again, and try once more.");
  const options = await asked.json();
  options.challenge = toBytes(options.challenge);
  options.user.id = toBytes(options.user.id);
  options.excludeCredentials = (options.excludeCredentials ?? []).map((one) => ({ ...one, id: toBytes(one.id) }));
  const made = await navigator.credentials.create({ publicKey: options });
  const answer = await post("/api/account/keys", JSON.stringify({
    id: made.id,
    rawId: toText(made.rawId),
    type: made.type,
    response: {
      clientDataJSON: toText(made.response.clientDataJSON),
      attestationObject: toText(made.response.attestationObject),
    },
  }));
  const outcome = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(outcome.refused ?? "The key was not taken.");
  return outcome.key;
}

if (button) {
  if (window.PublicKeyCredential) {
    button.disabled = false;
    button.addEventListener("click", async () => {
      button.disabled = true;
      said.textContent = "Follow what your device says.";
      try {
        const key = await register();
        said.textContent = `Registered: ${key}. Tell this number to the roster's keeper.`;
        setTimeout(() => location.reload(), 2500);
      } catch (error) {
        said.textContent = error.name === "NotAllowedError" ? "The device said no, or nobody answered it." : error.message;
        button.disabled = false;
      }
    });
  } else {
    said.textContent = "This browser has no keys for this address. Use https, or a key file: vigil keys person.";
  }
}

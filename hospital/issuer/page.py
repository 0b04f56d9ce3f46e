"""The issuer's pages: who do you want to be, who is signed in, and what went wrong.

Here: HTML, its one style sheet, and the headers that keep the pages to themselves.
Not here: routes (hospital.issuer.app). No script: the pages work without.
Source: WCAG 2.2 AA; W3C Content Security Policy Level 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from urllib.parse import urlsplit

from hospital.issuer.grants import Session
from hospital.issuer.people import PEOPLE, person_of

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f4f6f4; --card: #ffffff; --ink: #18211e; --quiet: #56625d; --line: #dfe5e1; --accent: #14544a;
  --focus: #0b6bcb; --note: #fbe7a3; --note-ink: #523b00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0e1312; --card: #151b1a; --ink: #e5ece8; --quiet: #9daba5; --line: #29332f; --accent: #8ed3bd;
    --focus: #7ab8ff; --note: #4a3f12; --note-ink: #f6e4a0;
  }
}
* { box-sizing: border-box; }
html { font-size: clamp(15px, 0.5vw + 10px, 22px); }
body {
  margin: 0; min-height: 100vh; background: var(--page); color: var(--ink); line-height: 1.35;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", "DejaVu Sans", sans-serif;
}
main { max-width: 58rem; margin: 0 auto; padding: 2.2rem 1rem 3rem; }
h1 { margin: 0 0 0.2rem; font-size: 1.5rem; letter-spacing: -0.01em; color: var(--accent); }
h2 { margin: 2rem 0 0.6rem; font-size: 1.05rem; }
p { margin: 0 0 1rem; }
.quiet { color: var(--quiet); }
.note {
  display: inline-block; margin: 0.6rem 0 1.4rem; padding: 0.35rem 0.8rem; border-radius: 8px;
  background: var(--note); color: var(--note-ink); font-weight: 600;
}
ul { list-style: none; margin: 0; padding: 0; }
.people { display: grid; grid-template-columns: repeat(auto-fill, minmax(15.5rem, 1fr)); gap: 0.7rem; }
.people form { height: 100%; }
button {
  font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  cursor: pointer; padding: 0.4rem 0.9rem;
}
button:hover { border-color: var(--accent); }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
.people button {
  display: flex; flex-direction: column; width: 100%; height: 100%; min-height: 5.6rem; padding: 0.8rem 1rem;
  text-align: left;
}
.people strong { display: block; font-size: 1.1rem; }
.people .title { display: block; color: var(--accent); font-weight: 600; }
.people .about { display: block; margin-top: 0.3rem; color: var(--quiet); font-size: 0.9rem; }
.sessions li {
  display: flex; flex-wrap: wrap; align-items: center; gap: 0.4rem 1.2rem; padding: 0.6rem 0;
  border-top: 1px solid var(--line);
}
.sessions form { margin-left: auto; }
"""

_NOTE = '<p class="note">Demonstration: anybody may be anybody.</p>'


def headers(form_targets: Iterable[str] = ()) -> dict[str, str]:
    """Return the headers of every page.

    Args:
        form_targets: addresses that a form's answer redirects to; browsers hold redirects to form-action too.
    """
    origins = sorted({"{0.scheme}://{0.netloc}".format(urlsplit(uri)) for uri in form_targets})
    return {
        "content-security-policy": "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; "
        "form-action " + " ".join(["'self'", *origins]),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }


def choice(question: str, client_name: str, hint: str) -> str:
    """Return the page that asks who signs in; the person with the hinted subject has the focus."""
    items = "\n".join(
        f'<li><form method="post" action="/authorize">'
        f'<input type="hidden" name="question" value="{escape(question)}">'
        f'<button name="subject" value="{escape(person.subject)}"{" autofocus" if person.subject == hint else ""}>'
        f'<strong>{escape(person.name)}</strong> <span class="title">{escape(person.title)}</span> '
        f'<span class="about">{escape(person.about)}</span></button></form></li>'
        for person in PEOPLE
    )
    return _page(
        "Sign in",
        f'<h1>Who are you?</h1>\n<p class="quiet">{escape(client_name)} asks you to sign in.</p>\n{_NOTE}\n'
        f'<ul class="people">\n{items}\n</ul>',
    )


def overview(sessions: list[Session]) -> str:
    """Return the page of who is signed in; ending a session tells the client at once (back-channel logout)."""
    items = "\n".join(_session_item(session) for session in sessions)
    listed = f'<ul class="sessions">\n{items}\n</ul>' if items else '<p class="quiet">Nobody is signed in.</p>'
    return _page("Development issuer", f"<h1>Development issuer</h1>\n{_NOTE}\n<h2>Signed in</h2>\n{listed}")


def message(title: str, text: str) -> str:
    """Return a page that says one thing."""
    return _page(title, f'<h1>{escape(title)}</h1>\n<p>{escape(text)}</p>\n<p><a href="/">Who is signed in</a></p>')


def _session_item(session: Session) -> str:
    person = person_of(session.subject)
    assert person is not None
    since = datetime.fromtimestamp(session.signed_in_at_us / 1e6, UTC).strftime("%H:%M UTC")
    return (
        f"<li><span><strong>{escape(person.name)}</strong>, {escape(person.title)}</span>"
        f'<span class="quiet">since {since} at {escape(session.client_id)}</span>'
        f'<form method="post" action="/sessions/end"><button name="sid" value="{escape(session.sid)}" '
        f'aria-label="End the session of {escape(person.name)} since {since}">End</button></form></li>'
    )


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{escape(title)} · Vigil demonstration</title>\n<link rel="stylesheet" href="/style.css">\n'
        f"</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )

"""What every page carries around its content: who is signed in, where they may go, what must be told on every page.

Here: the frame's values, pages that only say something, the menu by role.
Not here: the content of pages (clinic.boards, clinic.pages, clinic.officers), the decisions (clinic.guarding).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

from starlette.responses import HTMLResponse

from clinic.context import Context
from clinic.identity import Caller
from governance.access import Principal, Surface, Verb
from vocabulary.settings import Settings, Waiver, is_loopback

# In the order of where somebody starts who may come to several.
_PLACES: tuple[tuple[Surface, Verb, str, str], ...] = (
    (Surface.BOARD, Verb.READ, "/", "Board"),
    (Surface.REVIEW, Verb.READ, "/reviews", "Broken glasses"),
    (Surface.AUDIT, Verb.SEARCH, "/audit", "Audit"),
    (Surface.FEEDS, Verb.READ, "/feeds", "Feeds"),
    (Surface.BREAK_GLASS, Verb.OPEN, "/break-glass", "Break the glass"),
    (Surface.MODELS, Verb.READ, "/models", "Models"),
    (Surface.SIGNERS, Verb.READ, "/account/keys", "My signing keys"),
)

_ROLE_WORDS = {"data_protection_officer": "data-protection officer"}


@dataclass(frozen=True, slots=True)
class Place:
    """One entry of the menu."""

    href: str
    label: str


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who reads the page."""

    name: str
    roles: str
    csrf: str
    places: tuple[Place, ...]
    is_browser: bool  # has a session that can be ended; a token has none


def places_of(context: Context, principal: Principal) -> tuple[Place, ...]:
    """Return where somebody may go."""
    return tuple(Place(href, label) for surface, verb, href, label in _PLACES if context.may(principal, surface, verb))


def home_of(context: Context, principal: Principal) -> str:
    """Return where somebody starts: their first place, or the page that says who they are."""
    places = [place.href for place in places_of(context, principal) if place.href != "/account/keys"]
    return places[0] if places else "/me"


def role_text(principal: Principal) -> str:
    """Return somebody's roles in words."""
    return ", ".join(sorted(_ROLE_WORDS.get(role, role.replace("_", " ")) for role in principal.roles))


def waivers_of(settings: Settings, today: date) -> tuple[Waiver, ...]:
    """Return the permissions for plain text beyond this machine that are used today."""
    if is_loopback(settings.host) or settings.tls == "always":
        return ()  # nothing speaks plain text beyond this machine
    return tuple(waiver for waiver in settings.plaintext_waivers if today <= waiver.until)


def frame(context: Context, caller: Caller | None, *, here: str = "", view: str = "") -> dict[str, object]:
    """Return what every page's frame needs.

    Args:
        context: the clinic.
        caller: who reads it; None: nobody is signed in.
        here: the address of the menu's entry this page is.
        view: the id of this opened page.
    """
    today = datetime.fromtimestamp(context.wall_clock.now_us() / 1e6, UTC).date()
    reader = None
    home = "/"
    if caller is not None:
        principal = caller.principal
        reader = SignedIn(
            name=principal.name or principal.subject,
            roles=role_text(principal),
            csrf=caller.session.csrf if caller.session else "",
            places=places_of(context, principal),
            is_browser=caller.session is not None,
        )
        home = home_of(context, principal)
    return {
        "site": context.settings.site,
        "now_us": context.clock.now_us(),
        "log_us": context.ward.log_time_us() if caller is not None else 0,
        "speed": context.speed,
        "is_demonstration": context.settings.mode == "demo" or context.settings.clock_origin_us is not None,
        "reader": reader,
        "home": home,
        "here": here,
        "view": view,
        "waivers": waivers_of(context.settings, today) if caller is not None else (),
    }


def message_page(
    context: Context, caller: Caller | None, status: int, title: str, detail: str, link: Place | None = None
) -> HTMLResponse:
    """Return a page that says why there is no other."""
    html = context.templates.get_template("message.html").render(
        title=title, detail=detail, link=link, **frame(context, caller)
    )
    return HTMLResponse(html, status)

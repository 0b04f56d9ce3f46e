"""The dossier's one style sheet, and the policy under which a browser may show the file.

Here: the sheet as text, its hash, the Content Security Policy that lets in nothing else.
Not here: markup (governance.dossier, governance.dossier_verdicts, governance.dossier_plots).
Source: W3C Content Security Policy Level 3 (hashes); WCAG 2.1, 1.4.3 (contrast); ISO 216 (A4).
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--page:#fff;--ink:#18211e;--quiet:#56625d;--line:#d5dcd8;--faint:#f1f4f2;--accent:#14544a;
--pass:#1d5b39;--fail:#a81c14;--doubt:#7a5600;--tag:#fbe7a3;--tag-ink:#523b00;
--s0:#14544a;--s1:#7b3fb0;--s2:#b0480e;--s3:#1a66b3;--s4:#6b6b00;--s5:#8a1c53}
@media (prefers-color-scheme:dark){:root{--page:#111716;--ink:#e5ece8;--quiet:#a3b0ab;--line:#33403b;--faint:#1a2220;
--accent:#8ed3bd;--pass:#8fd6a8;--fail:#ff9a90;--doubt:#e8cd76;--tag:#4a3f12;--tag-ink:#f6e4a0;
--s0:#8ed3bd;--s1:#cbaaf0;--s2:#f5b066;--s3:#8cc2ff;--s4:#d6d06a;--s5:#f29ac0}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:62rem;padding:1.5rem 1.2rem 3rem;background:var(--page);color:var(--ink);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans","DejaVu Sans",sans-serif;
font-variant-numeric:tabular-nums}
h1{font-size:1.7rem;line-height:1.15;margin:0 0 .2rem;letter-spacing:-.015em}
h2{font-size:1.2rem;margin:2rem 0 .5rem;padding-top:.6rem;border-top:2px solid var(--accent)}
h3{font-size:1.05rem;margin:1.4rem 0 .3rem}
p{margin:.35rem 0}
.quiet,figcaption,caption{color:var(--quiet);font-size:.88em}
code{font:.88em ui-monospace,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
.tag{display:inline-block;padding:.25rem .7rem;margin:.5rem 0;border-radius:.35rem;background:var(--tag);
color:var(--tag-ink);font-weight:650}
.outcome{font-weight:650;white-space:nowrap;font-size:.92em}
.outcome.pass{color:var(--pass)}.outcome.fail{color:var(--fail)}.outcome.inconclusive{color:var(--doubt)}
h3 .outcome{margin-left:.5rem}
dl{display:grid;grid-template-columns:12rem minmax(0,1fr);gap:.2rem 1rem;margin:.5rem 0}
dt{color:var(--quiet)}dd{margin:0;overflow-wrap:anywhere}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;margin:.6rem 0;font-size:.9rem}
caption{text-align:left;font-weight:600;padding-bottom:.15rem}
th,td{text-align:left;padding:.22rem .5rem .22rem 0;border-bottom:1px solid var(--line);vertical-align:baseline}
thead th{color:var(--quiet);font-weight:500;font-size:.84rem}
tbody th{font-weight:400}
.number{text-align:right;white-space:nowrap}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(22rem,1fr));gap:1rem}
figure{margin:.4rem 0;padding:.6rem;border:1px solid var(--line);border-radius:.5rem;break-inside:avoid}
figcaption{text-align:center}
.plot{display:block;width:100%;height:auto}
.plot .grid{stroke:var(--line);stroke-width:1}
.plot .tick{fill:var(--quiet);font-size:11px}.plot .label{fill:var(--quiet);font-size:11.5px}
.plot .legend{fill:var(--ink);font-size:11.5px}
.plot .diagonal{stroke:var(--quiet);stroke-dasharray:2 4}
.line{fill:none;stroke-width:1.9;stroke-linejoin:round}
.line.s0{stroke:var(--s0)}.line.s1{stroke:var(--s1);stroke-dasharray:7 3}.line.s2{stroke:var(--s2);stroke-dasharray:2 3}
.line.s3{stroke:var(--s3);stroke-dasharray:9 3 2 3}.line.s4{stroke:var(--s4);stroke-dasharray:4 4}
.line.s5{stroke:var(--s5);stroke-dasharray:1 2}
.dot.s0,.band.s0{fill:var(--s0)}.dot.s1,.band.s1{fill:var(--s1)}.dot.s2,.band.s2{fill:var(--s2)}
.dot.s3,.band.s3{fill:var(--s3)}.dot.s4,.band.s4{fill:var(--s4)}.dot.s5,.band.s5{fill:var(--s5)}
.band{opacity:.16}
.interval{width:5.5rem;height:.66rem;margin-right:.5rem;vertical-align:-.02em}
.interval .reach{stroke:var(--quiet);stroke-width:2}.interval .point{fill:var(--ink)}
.interval .zero{stroke:var(--line);stroke-width:1.5}
ol,ul{padding-left:1.3rem;margin:.3rem 0}
@page{size:A4;margin:16mm 14mm}
@media print{:root{color-scheme:light;--page:#fff;--ink:#000;--quiet:#444;--line:#bbb;--faint:#fff;--accent:#000;
--pass:#1d5b39;--fail:#a81c14;--doubt:#7a5600;--tag:#fff;--tag-ink:#000;
--s0:#14544a;--s1:#7b3fb0;--s2:#b0480e;--s3:#1a66b3;--s4:#6b6b00;--s5:#8a1c53}
body{max-width:none;padding:0;font-size:9.5pt}.tag{border:1.5pt solid #000}.wide{overflow:visible}
h2,h3{break-after:avoid}tr,figure{break-inside:avoid}thead{display:table-header-group}
.figures{grid-template-columns:1fr 1fr}}
"""

_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

IN_FILE_POLICY: Final = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
"""What the file itself asks of a browser, wherever it is opened: its own sheet, and nothing from anywhere."""

CONTENT_SECURITY_POLICY: Final = f"{IN_FILE_POLICY}; frame-ancestors 'none'; sandbox"
"""What a server that shows the file sends with it."""

"""The look of `page`: light and dark, no script, nothing from elsewhere."""

STYLE = """
:root { color-scheme: light dark; --ground: #fbfaf8; --card: #ffffff; --ink: #1d2126; --soft: #626a73; --line: #e3e1dc;
  --bar: #3f6fb5; --good: #1e7f4f; --bad: #b8322a; --goodbg: #e4f3ea; --badbg: #fbe6e3; --track: #eeece7; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --card: #1d2126; --ink: #e8e6e3; --soft: #9aa3ad;
  --line: #30363d; --bar: #6f9fe6; --good: #5cc492; --bad: #ef7f74; --goodbg: #16302a; --badbg: #3a1f1e;
  --track: #2a3037; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 6px; }
p { margin: 4px 0 12px; max-width: 76ch; }
.soft { color: var(--soft); }
.verdict { border-radius: 10px; padding: 14px 18px; margin: 20px 0; border-left: 6px solid; }
.passed { background: var(--goodbg); border-color: var(--good); }
.failed { background: var(--badbg); border-color: var(--bad); }
.verdict b { font-size: 17px; }
.passed b { color: var(--good); }
.failed b { color: var(--bad); }
.verdict p { margin: 4px 0 0; max-width: none; overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(185px, 1fr)); gap: 12px; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.figure span { display: block; color: var(--soft); font-size: 13px; }
.figure strong { display: block; font-size: 23px; font-weight: 600; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; background: var(--card); border: 1px solid var(--line); }
th, td { text-align: left; padding: 5px 10px; border-bottom: 1px solid var(--line); vertical-align: middle; }
th { font-size: 13px; color: var(--soft); font-weight: 600; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; width: 5.5em; }
th.number { text-align: right; }
td.name { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 13px; }
td.bar { width: 32%; }
td.bar svg, .answer svg { display: block; width: 100%; height: 12px; border-radius: 3px; background: var(--track); }
rect { fill: var(--bar); }
tr.worst td { background: var(--badbg); }
tr.worst rect, .bad rect { fill: var(--bad); }
.wide { overflow-x: auto; }
.flips { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 12px; margin-top: 14px; }
.flip { display: flex; gap: 12px; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 10px; }
.flip img { width: 96px; height: 96px; object-fit: contain; background: #808080; border-radius: 6px; flex: none; }
.small { image-rendering: pixelated; }
.flip > div { flex: 1; min-width: 0; font-size: 13px; }
.truth { font-weight: 600; overflow-wrap: anywhere; }
.answer { margin-top: 4px; overflow-wrap: anywhere; }
.answer span { color: var(--soft); }
.answer em { font-style: normal; float: right; font-variant-numeric: tabular-nums; }
.right em, .right strong { color: var(--good); }
footer { margin-top: 40px; color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
"""

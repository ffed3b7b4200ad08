"""The page's style sheet."""

CSS = """
:root { color-scheme: light; --ink: #1d2430; --soft: #5b6472; --rule: #dfe3e9; --ground: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main, header > div { max-width: 1280px; margin: 0 auto; padding: 0 20px; }
header { background: #fff; border-bottom: 1px solid var(--rule); padding: 18px 0 8px; }
h1 { font-size: 24px; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 0 0 10px; }
h3 { font-size: 15px; margin: 18px 0 6px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 14px; margin-top: 6px; }
a { color: #0b5cad; text-decoration: none; }
section { background: #fff; border: 1px solid var(--rule); border-radius: 8px; padding: 16px 18px; margin: 18px 0; }
.note, .soft { color: var(--soft); font-size: 14px; margin: 4px 0 8px; }
.warn li { margin-bottom: 4px; overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 350px), 1fr)); gap: 18px; }
.stacked > figure { margin-top: 18px; }
.halves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 18px; }
.halves > * { min-width: 0; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; font-size: 14px; margin-bottom: 4px; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; display: block; }
svg text { font-size: 12px; fill: var(--soft); }
.rule { stroke: var(--rule); } .mark { stroke: #9aa3b0; stroke-dasharray: 2 3; }
.legend { margin: 4px 0; font-size: 13px; display: flex; flex-wrap: wrap; gap: 2px 14px; }
.key { white-space: nowrap; } .key i { display: inline-block; width: 20px; margin-right: 6px; vertical-align: middle; }
.scroll { overflow-x: auto; } .tall { max-height: 560px; overflow-y: auto; }
table { border-collapse: collapse; font-size: 14px; }
th, td { padding: 4px 12px; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
th[scope=row], thead th:first-child { text-align: left; position: sticky; left: 0; background: #fff; font-weight: 600; }
thead th { white-space: nowrap; } .facts td { text-align: left; overflow-wrap: anywhere; min-width: 150px; }
.facts th { text-align: left; }
td.best { font-weight: 700; }
.bars { display: grid; gap: 5px; }
.row { display: grid; grid-template-columns: 88px 1fr; gap: 8px; align-items: center; font-size: 13px; }
.row b { font-weight: 500; overflow-wrap: anywhere; text-align: right; line-height: 1.2; }
.bar { display: grid; grid-template-columns: 1fr 34px; gap: 6px; height: 15px; margin: 1px 0; }
.bar u { background: #eef0f3; border-radius: 2px; overflow: hidden; }
.bar i { display: block; height: 100%; }
.bar span { font-size: 12px; line-height: 15px; text-align: right; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 560px), 1fr)); gap: 16px 22px; }
.shot { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 6px; min-width: 0; }
.shot img { width: 100%; display: block; border-radius: 3px; }
.shot figcaption { font-weight: 400; font-size: 12.5px; color: var(--soft); margin: 0 0 2px; }
.name { font-size: 12px; color: var(--soft); overflow-wrap: anywhere; }
details { margin-top: 14px; } summary { cursor: pointer; font-weight: 600; margin-bottom: 10px; }
ul { margin: 4px 0; padding-left: 20px; }
@media (max-width: 600px) {
  main, header > div { padding: 0 10px; } section { padding: 12px; margin: 12px 0; }
  th, td { padding: 4px 8px; } .row { grid-template-columns: 70px 1fr; }
}
"""

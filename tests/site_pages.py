"Pages as Quarto lays them out, as far as that can be said without it: its elements and classes, bootstrap, our styles."

import html, re, shutil, subprocess

import pytest, yaml

CODE = """
div.sourceCode { background-color: $code-block-bg; border-radius: .25rem; margin: .5em 0; }
pre { margin: 0; padding: .4em; }
pre, pre code { color: $pre-color; background: none; }
main { max-width: 880px; margin: 0 auto; padding: 0 .75rem; }
.figure-img { max-width: 100%; height: auto; }
"""  # what Quarto adds to bootstrap; $code-block-bg is its own


def styles(nbs, folder):
    "The style sheets of both modes, compiled with the sass and the bootstrap of npm: mode -> file."
    if not shutil.which('npm'):
        pytest.skip('no npm')
    packages = ['npm', 'install', '--silent', '--no-audit', '--no-fund', 'sass@1.77', 'bootstrap@5.3']
    if subprocess.run(packages, cwd=folder, capture_output=True).returncode:
        pytest.skip('npm cannot get sass and bootstrap')
    dark, out = (nbs / 'dark.scss').read_text(), {}
    defaults, rules = dark.split('/*-- scss:rules --*/')
    bootstrap, own = '@import "bootstrap/scss/bootstrap";', (nbs / 'styles.css').read_text()
    usual = '$code-block-bg: rgba(233, 236, 239, .65) !default; $pre-color: null !default;'
    for mode, text in dict(
        light=f'{usual}{bootstrap}{CODE}', dark=f'{defaults}{usual}{bootstrap}{CODE}{rules}'
    ).items():
        (folder / f'{mode}.scss').write_text(f'{text}\n{own}'.replace('color: null', 'color: inherit'))
        sass = [
            'node_modules/.bin/sass',
            '--quiet',
            '--load-path=node_modules',
            f'{mode}.scss',
            f'{mode}.css',
        ]
        done = subprocess.run(sass, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        out[mode] = folder / f'{mode}.css'
    return out


def markdown(text):
    from nbconvert.filters import markdown2html_mistune

    text = re.sub(r'\$\$.*?\$\$', '', text, flags=re.S)  # Quarto makes MathML of it
    text = re.sub(r'\$[\\a-zA-Z(][^$\n]*\$', 'formula', text)  # and of this
    return markdown2html_mistune(text).replace('<table>', '<table class="caption-top table">')


def block(text, kind=''):
    return f'<pre{kind}><code>{html.escape(text)}</code></pre>'


def output(o):
    data = o.get('data', {})
    text = {k: ''.join(v) for k, v in data.items() if isinstance(v, (str, list))}
    if o['output_type'] == 'stream':
        return f'<div class="cell-output cell-output-stdout">{block("".join(o["text"]))}</div>'
    if 'image/png' in text:
        inside = f'<img class="img-fluid figure-img" alt="" src="data:image/png;base64,{text["image/png"].strip()}">'
    elif 'text/markdown' in text:
        inside = markdown(text['text/markdown'])
    else:
        inside = block(text.get('text/plain', ''))
    return f'<div class="cell-output cell-output-display">{inside}</div>'


def cell_html(cell):
    source = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown':
        return markdown(source)
    if cell['cell_type'] == 'raw':
        head = yaml.safe_load(source.strip().strip('-'))
        return f'<h1>{head["title"]}</h1><div class="description"><p>{head.get("description", "")}</p></div>'
    code = re.sub(r'^#\|.*\n?', '', source, flags=re.M)
    if re.search(r'^#\| *echo: *false', source, re.M):
        code = ''
    kind = ' class="sourceCode python"'
    shown = f'<div class="sourceCode cell-code">{block(code, kind)}</div>' if code else ''
    return f'<div class="cell">{shown}{"".join(map(output, cell["outputs"]))}</div>'


def page_html(cells, style, base):
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><base href="{base}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="stylesheet" href="{style.as_uri()}"></head>'
        f'<body><main class="content">{"".join(map(cell_html, cells))}</main></body></html>'
    )


# texts whose contrast with what is behind them is too low: [text, ratio, color, background]
FAINT = """() => {
  const brush = document.createElement('canvas').getContext('2d', {willReadFrequently: true}), known = {};
  const parse = c => known[c] ??= (brush.clearRect(0, 0, 1, 1), brush.fillStyle = c, brush.fillRect(0, 0, 1, 1),
    (([r, g, b, a]) => [r, g, b, a/255])(brush.getImageData(0, 0, 1, 1).data)); // any notation, also oklab
  const over = (a, b) => [0, 1, 2].map(i => a[i]*a[3] + b[i]*(1 - a[3])).concat(1);
  const linear = v => v <= .04045*255 ? v/255/12.92 : ((v/255 + .055)/1.055)**2.4;
  const light = c => { const [r, g, b] = c.map(linear);
                       return .2126*r + .7152*g + .0722*b; };
  const found = {}, walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
    if (!text || !e.checkVisibility() || !e.getClientRects().length || e.closest('script, style, math, svg')) continue;
    const layers = [];
    for (let b = e; b; b = b.parentElement) layers.push(parse(getComputedStyle(b).backgroundColor));
    const back = layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255, 1]);
    const color = over(parse(getComputedStyle(e).color), back), [a, b] = [light(color), light(back)];
    const ratio = (Math.max(a, b) + .05)/(Math.min(a, b) + .05);
    const colors = `${color.map(Math.round)} on ${back.map(Math.round)}`;
    if (ratio < 4.5) found[colors] = [text.slice(0, 60), ratio.toFixed(2)];
  }
  return found;
}"""
# what is wider than its place: the page itself, or an element of the kind asked for that scrolls or cuts
WIDE = """kind => {
  const out = [], page = document.documentElement;
  if (page.scrollWidth > innerWidth) out.push(`the page, ${page.scrollWidth}`);
  for (const e of document.querySelectorAll(kind)) {
    const style = getComputedStyle(e);
    if (style.overflowX !== 'visible' && e.scrollWidth > e.clientWidth + 1)
      out.push(`${e.tagName} ${e.scrollWidth} in ${e.clientWidth}: ${e.textContent.trim().slice(0, 80)}`);
  }
  return out;
}"""
# words in a table that are cut in two
CUT = r"""() => {
  const out = [], range = document.createRange(), walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode;
    if (!text.parentElement.closest('th, td')) continue;
    for (const word of text.textContent.matchAll(/[\w.]+/g)) {
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map(r => Math.round(r.top))).size > 1) out.push(word[0]);
    }
  }
  return out;
}"""

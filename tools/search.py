"""Add every symbol to the site's search index, at its own place; Quarto lists sections of the second level alone.

Quarto runs this after it has rendered the site.
"""
import html, json, os, re
from pathlib import Path

INLINE = re.compile(r'</?(?:a|b|code|em|i|span|strong|wbr)\b[^>]*>')
SECTION = re.compile(r'<section id="([^"]+)" class="level3[^"]*">\s*<h3[^>]*>(.*?)</h3>(.*?)</section>', re.S)


def words(markup):
    "Return the text of a piece of a page."
    return ' '.join(html.unescape(re.sub('<[^>]+>', ' ', INLINE.sub('', markup))).split())


def symbols(page, entry):
    "Yield an entry for each third-level section of a page; `entry` is the page's own."
    for place, title, body in SECTION.findall(page):
        href = f'{entry["href"]}#{place}'
        yield dict(entry, objectID=href, href=href, section=words(title), text=html.escape(words(body)))


def complete(site):
    "Add what is missing to the index of a rendered site."
    file = site / 'search.json'
    index = json.loads(file.read_text(encoding='utf-8'))
    known = {entry['objectID'] for entry in index}
    for entry in [e for e in index if '#' not in e['href']]:
        page = (site / entry['href']).read_text(encoding='utf-8')
        index += [s for s in symbols(page, entry) if s['objectID'] not in known]
    file.write_text(json.dumps(index, indent=2), encoding='utf-8')


if __name__ == '__main__':
    complete(Path(os.environ['QUARTO_PROJECT_OUTPUT_DIR']))

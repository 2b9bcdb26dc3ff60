"What a notebook cell cannot show of the report: exit codes of the command in a process of its own, and the page in a real browser."
import os, shutil, subprocess, sys

import pytest

from spurnb.core import save_png, write_json
from spurnb.data import mini_root
from spurnb.scenes import reference_scenes

weights = pytest.mark.skipif(not (mini_root()/'record.json').exists(), reason="the mini world's weights are not there")


def audit(*args):
    "Exit code, what was printed, and what went to stderr, of `spurnb_audit`."
    done = subprocess.run([sys.executable, '-m', 'spurnb.report', *map(str, args)], capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS='1'))
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope='module')
def feeders(tmp_path_factory):
    folder = tmp_path_factory.mktemp('images')/'red feeders & <b>more</b>'
    for i, scene in enumerate(reference_scenes('hummingbird', 24, seed=9)): save_png(folder/f'{i:02d} <i>.png', scene.draw())
    return folder


@weights
def test_exit_codes(feeders, tmp_path):
    code, said, _ = audit(feeders, '--out', tmp_path/'a', '--judges', 'test_resnet,test_nfnet', '--limit', '0.01')
    assert code == 1 and 'above the limit' in said
    assert said.strip().splitlines()[-1] == f'report: {tmp_path/"a"/"report.html"}'
    code, said, _ = audit(feeders, '--out', tmp_path/'a', '--judges', 'test_resnet,test_nfnet', '--limit', '1')
    assert code == 0 and 'kept by all 2 classifiers' in said


@weights
@pytest.mark.parametrize('args, word', [
    (('--target', 'humingbird'), 'hummingbird'), (('--judges', 'test_resnett'), 'test_resnet'), (('--limit', '20'), 'between 0 and 1'),
    (('--judges', 'test_resnet,resnet50'), 'apart'), (('--device', 'tpu'), 'tpu')])
def test_a_mistake_is_one_sentence(feeders, tmp_path, args, word):
    code, _, said = audit(feeders, '--out', tmp_path/'out', *args)
    assert code == 2 and word in said and 'Traceback' not in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path/'out'/'metrics.json').exists()


@weights
def test_a_folder_that_is_not_there(tmp_path):
    code, _, said = audit(tmp_path/'nowhere', '--out', tmp_path/'out')
    assert code == 2 and 'nowhere' in said and 'Traceback' not in said


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    "A report on made-up numbers, with names that need escaping."
    from spurnb.report import write_report
    run = tmp_path_factory.mktemp('runs')/'made up'
    def m(value): return dict(value=value, low=max(0, value - .1), high=min(1, value + .1), n=64)
    rates = dict(references=.8, untuned=.3, prompted=.6, dreambooth=.6, sfsl=.9, background=.1)
    arms = {a: dict(spurious_rate=m(v), object_absent=m(1), feature_present=m(v), near_copies=m(.05)) for a, v in rates.items()}
    write_json(run/'metrics.json', dict(target=dict(name='humming<b>bird', feature='feeder', prompted='red feeder', index=0, classes=6), arms=arms, encoder=dict(hash='0'),
        classifiers={f'a/rather-long.name_of_a_classifier_{i}': {a: m(v) for a, v in rates.items()} for i in range(8)}, differences={'sfsl-dreambooth': dict(m(.3), low=.1)}))
    write_json(run/'config.json', dict(created='2026-01-01', settings={f'setting {i}': 'x'*200 for i in range(20)}))
    for arm in ('untuned', 'prompted', 'dreambooth', 'sfsl'):
        for i, scene in enumerate(reference_scenes('hummingbird', 24, seed=1)): save_png(run/'images'/arm/f'{i:05d}.png', scene.draw())
    return write_report(run)


@pytest.mark.parametrize('width, scheme', [(390, 'light'), (390, 'dark'), (1200, 'light'), (1200, 'dark')])
def test_in_a_browser(page, width, scheme):
    sync = pytest.importorskip('playwright.sync_api')
    chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not chromium: pytest.skip('no Chromium')
    with sync.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-gpu'])
        tab = browser.new_context(viewport=dict(width=width, height=800), color_scheme=scheme).new_page()
        asked, complaints = [], []
        tab.on('request', lambda r: asked.append(r.url))
        tab.on('console', lambda m: complaints.append(m.text))
        tab.goto(page.as_uri())
        assert [u for u in asked if not u.startswith('data:')] == [page.as_uri()] and complaints == []
        assert tab.evaluate('document.documentElement.scrollWidth') <= width                                   # nothing sticks out sideways
        assert tab.evaluate('[...document.images].every(i => i.complete && i.naturalWidth > 0)')
        assert tab.inner_text('h1') == 'Is red feeder enough to be called humming<b>bird?'
        paper, ink = tab.evaluate('(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))')
        assert (sum(map(int, paper[4:-1].split(','))) > sum(map(int, ink[4:-1].split(',')))) == (scheme == 'light')
        tab.click('#settings summary')
        assert tab.is_visible('text=settings.setting 3')
        browser.close()

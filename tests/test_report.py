"The report where a notebook cell cannot test it: exit codes of the command, and the pages in a browser."
import json, os, re, shutil, subprocess, sys
from contextlib import contextmanager

import pytest
from PIL import Image

from made_up import JUDGES, made_up_run
from site_pages import CUT, FAINT
from spurnb.cli import spurnb_audit
from spurnb.core import UserError, save_png, write_json
from spurnb.data import mini_root
from spurnb.world.scenes import reference_scenes

weights = pytest.mark.skipif(
    not (mini_root()/'record.json').exists(), reason="the embedded world's weights are not there")


def audit(*args):
    "Return exit code, stdout and stderr of `spurnb_audit`."
    command = [sys.executable, '-m', 'spurnb.cli', 'audit', *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS='1'))
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope='module')
def feeders(tmp_path_factory):
    folder = tmp_path_factory.mktemp('images')/'red feeders & <b>more</b>'
    for i, scene in enumerate(reference_scenes('hummingbird', 24, seed=9)):
        save_png(folder/f'{i:02d} <i>.png', scene.draw())
    return folder


@weights
def test_exit_codes(feeders, tmp_path):
    judges = '--target', 'hummingbird', '--judges', 'test_resnet', 'test_nfnet'
    code, said, _ = audit(feeders, '--out', tmp_path/'a', *judges, '--limit', '0.01')
    assert code == 1 and 'limit of 1% broken by 2 of 2 classifiers' in said
    assert re.match(r'\d+% of the images are called hummingbird', said) # the answer first
    assert said.strip().splitlines()[-1] == f'report: {tmp_path/"a"/"report.html"}'
    code, said, _ = audit(feeders, '--out', tmp_path/'a', *judges, '--limit', '1')
    assert code == 0 and 'limit of 100% kept by all 2 classifiers' in said


@weights
@pytest.mark.parametrize('args, word', [
    (('--target', 'humingbird'), 'hummingbird'), (('--judges', 'test_resnett'), 'test_resnet'),
    (('--limit', '20'), 'between 0 and 1'),
    (('--judges', 'test_resnet', 'resnet50'), 'separately'), (('--device', 'tpu'), 'tpu')])
def test_a_bad_option_prints_one_line(feeders, tmp_path, args, word):
    code, _, said = audit(feeders, '--out', tmp_path/'out', *args)
    assert code == 2 and word in said and 'Traceback' not in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path/'out'/'metrics.json').exists()


def in_process(capsys, *args):
    "Return exit code and stdout of `spurnb_audit`, called here."
    code = 0
    try: spurnb_audit(args)
    except SystemExit as stop: code = stop.code
    said = capsys.readouterr()
    return code, said.out + said.err


@weights
def test_a_classifier_that_cannot_be_loaded_has_not_passed(feeders, tmp_path, capsys):
    judges = '--judges', 'test_resnet', 'test_resnett'
    ask = feeders, '--target', 'hummingbird', '--out', tmp_path/'a', *judges, '--limit'
    assert in_process(capsys, *ask, '0.01')[0] == 1
    code, said = in_process(capsys, *ask, '1')
    assert code == 3 and 'Caution: test_resnett was left out' in said


@pytest.mark.parametrize('args, word', [
    (('--data', 'spurious_imagenet'), '--data needs'),
    (('--data', 'spurious_imagenet', '--limit', '0.2'), '--limit belongs to a folder'),
    (('--data', 'here', '--judges', 'resnet50', '--validation_images', 'imagenet'), "there is no 'here'"),
    (('folder', '--shard', '1/2'), '--shard belongs to --data')])
def test_options_that_do_not_belong_together(args, word, tmp_path, capsys):
    code, said = in_process(capsys, *args, '--out', tmp_path/'out')
    assert code == 2 and word in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path/'out').exists()


def test_compare(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path/'again', ignore=shutil.ignore_patterns('images'))
    code, said = in_process(capsys, '--compare', run, tmp_path/'again', '--out', tmp_path/'board', '--tables', 'csv')
    assert code == 0 and said.startswith('On the ')
    assert said.strip().endswith(f'leaderboard: {tmp_path/"board"/"leaderboard.html"}')
    files = sorted(f.name for f in (tmp_path/'board').iterdir())
    assert files == ['differences.csv', 'leaderboard.csv', 'leaderboard.html']


@weights
def test_a_folder_that_is_not_there(tmp_path):
    code, _, said = audit(tmp_path/'nowhere', '--out', tmp_path/'out')
    assert code == 2 and 'nowhere' in said and 'Traceback' not in said


def test_folders_that_are_no_audits_are_refused(tmp_path):
    "An empty folder, a single one, images together with --compare: one line and exit code 2."
    empty, single = ('--compare', tmp_path, tmp_path/'x'), ('--compare', tmp_path)
    both = tmp_path, *single
    cases = {empty: 'is not an audit', single: 'at least two', both: 'give only one of', (): 'give one of a folder'}
    for args, word in cases.items():
        code, _, said = audit(*args, '--out', tmp_path/'board')
        assert code == 2 and word in said and 'Traceback' not in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path/'board').exists()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run folder on made-up numbers, with names that need escaping."
    return made_up_run(tmp_path_factory.mktemp('runs')/'made up')


@pytest.fixture(scope='module')
def page(run):
    from spurnb.report.page import write_report
    return write_report(run)


def test_the_page_stays_small(tmp_path):
    "Five arms of 70 images of 512 pixels: 64 of each are shown, it says so, and the page can be mailed."
    from spurnb.report.page import write_report
    html = write_report(made_up_run(tmp_path/'large', n=70, side=512)).read_text()
    assert len(html) < 6e6 and '64 of 70 images' in html and 'Only the first 64 of each arm are shown' in html


@pytest.mark.parametrize('checks, said', [
    (('object_absent', 'feature_present'), 'the meters find the humming&lt;b&gt;bird, or do not find the red feeder.'),
    (('object_absent',), 'the meters find the humming&lt;b&gt;bird.')])
def test_the_page_says_what_a_faded_image_is(tmp_path, checks, said):
    "Before the images, and only if one of them is faded."
    import pandas as pd
    from spurnb.report.page import write_report
    folder = made_up_run(tmp_path/'run', n=8)
    scores = pd.read_csv(folder/'scores.csv')
    scores = scores.drop(columns={'object_absent', 'feature_present'} - {*checks})
    for valid in (True, False):
        scores.assign(valid=valid).to_csv(folder/'scores.csv', index=False)
        html = write_report(folder).read_text()
        legend = f'Faded images with a dashed border fail a check: {said}'
        assert (legend in html) == ('class="dashed"' in html) == ('Faded' in html) == (not valid)


def test_the_page_says_what_the_loss_leaves_out(tmp_path):
    from spurnb.report.page import write_report
    folder = made_up_run(tmp_path/'run', n=4)
    why = ["not chosen: the object's", 'chosen']
    write_json(folder/'components.json', dict(rule='a rule', chosen=[1], object=[0], contrast=[.1, 2.], why=why))
    config = json.loads((folder/'config.json').read_text())
    for evidence in ('rest', 'chosen'):
        config['settings']['sfsl'] = dict(features='alpha', evidence=evidence)
        write_json(folder/'config.json', config)
        html = write_report(folder).read_text()
        assert ("adds up all components except the object's (0)" in html) == (evidence == 'rest')


def test_parquet(run, monkeypatch, tmp_path):
    "With pyarrow the tables come back as they were; without it one line says what to install."
    import pandas as pd
    from spurnb.report import tables
    metrics = json.loads((run/'metrics.json').read_text())
    with monkeypatch.context() as without:
        without.setattr(tables, 'find_spec', lambda name: None)
        with pytest.raises(UserError, match='pip install pyarrow'):
            tables.write_tables(metrics, tmp_path/'none', ['csv', 'parquet'])
    assert not (tmp_path/'none').exists()
    pytest.importorskip('pyarrow')
    tables.write_tables(metrics, tmp_path, ['parquet'])
    assert sorted(f.stem for f in tmp_path.glob('*.parquet')) == ['arms', 'classifiers', 'differences']
    for name, table in tables.long_tables(metrics).items():
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path/f'{name}.parquet'), table, check_dtype=False)


@contextmanager
def opened(page, width=1200, scheme='light', **context):
    "The page in Chromium; at the end nothing was asked of the network, and the console is empty."
    sync = pytest.importorskip('playwright.sync_api')
    chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not chromium: pytest.skip('no Chromium')
    with sync.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-gpu'])
        tab = browser.new_context(viewport=dict(width=width, height=800), color_scheme=scheme, **context).new_page()
        asked, complaints = [], []
        tab.on('request', lambda r: asked.append(r.url))
        tab.on('console', lambda m: complaints.append(m.text))
        tab.on('pageerror', lambda e: complaints.append(str(e)))
        tab.goto(page.as_uri())
        yield tab
        assert [u for u in asked if not u.startswith('data:')] == [page.as_uri()] and complaints == []
        browser.close()


@pytest.mark.parametrize('width, scheme', [(390, 'light'), (390, 'dark'), (1200, 'light'), (1200, 'dark')])
def test_in_a_browser(page, width, scheme):
    with opened(page, width, scheme) as tab:
        assert tab.evaluate('document.documentElement.scrollWidth') <= width # nothing sticks out sideways
        loaded = 'i.complete && i.naturalWidth > 0 || i.id === "detail-image"'
        assert tab.evaluate(f'[...document.images].every(i => {loaded})')
        assert re.fullmatch(r'\d+% of the sfsl images are called humming<b>bird[,;].*\.', tab.inner_text('h1'))
        assert tab.inner_text('.question') == 'Does the feature “red feeder” alone make classifiers say humming<b>bird?'
        assert not tab.evaluate(FAINT)
        paper, ink = tab.evaluate('(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))')
        assert (sum(map(int, paper[4:-1].split(','))) > sum(map(int, ink[4:-1].split(',')))) == (scheme == 'light')
        tab.click('#settings summary')
        assert tab.is_visible('text=settings.setting 3')
        tab.locator('#rows button').first.click()
        box = tab.locator('#detail').bounding_box()
        assert box['x'] >= 0 and box['x'] + box['width'] <= width and box['height'] <= 800


def _votes(tab): return [int(t.split()[0]) for t in tab.locator('#rows td.count').all_inner_texts()]


def test_filters_of_the_board(run, page):
    "The filters agree with scores.csv, and the order with the votes."
    import pandas as pd
    sync = pytest.importorskip('playwright.sync_api')
    scores = pd.read_csv(run/'scores.csv')
    mine = scores[scores.arm == 'sfsl']
    with opened(page) as tab:
        assert tab.inner_text('#shown') == f'{len(mine)} of {len(scores)} images' # the main arm comes first
        assert _votes(tab) == mine.votes.tolist()
        tab.select_option('#sort', 'most')
        assert _votes(tab) == sorted(mine.votes, reverse=True)
        tab.select_option('#sort', 'divided')
        assert [abs(v - 4) for v in _votes(tab)] == sorted(abs(v - 4) for v in mine.votes)
        judge = JUDGES[2]
        tab.select_option('#judge', judge)
        tab.select_option('#verdict', 'spurious')
        assert len(_votes(tab)) == mine[f'hit.{judge}'].sum()
        tab.select_option('#verdict', 'other')
        assert len(_votes(tab)) == (~mine[f'hit.{judge}']).sum()
        tab.select_option('#verdict', '')
        tab.select_option('#checks', 'invalid')
        assert len(_votes(tab)) == (~mine.valid).sum()
        assert all('fails a check' in t for t in tab.locator('#rows th').all_inner_texts())
        tab.select_option('#arm', '')
        assert tab.inner_text('#shown') == f'{(~scores.valid).sum()} of {len(scores)} images'
        tab.click('#tools button[type=reset]')
        # the page forbids eval, which wait_for_function needs
        sync.expect(tab.locator('#shown')).to_have_text(f'{len(mine)} of {len(scores)} images')
        tab.select_option('#arm', '')
        assert len(_votes(tab)) == 24
        tab.click('#more')
        assert len(_votes(tab)) == 48
        assert tab.evaluate('document.activeElement.closest("tr").rowIndex') == 25 # focus on the first new one
        tab.select_option('#verdict', 'other')
        tab.select_option('#arm', 'sfsl')
        assert tab.inner_text('#rows') == 'No image matches.' # each fools somebody


def test_one_image_by_keyboard(run, page):
    "An image opens by Enter, shows its record, moves by arrows, closes by Escape, and gives the focus back."
    import pandas as pd
    row = pd.read_csv(run/'scores.csv').query('arm == "untuned" and image == 3').iloc[0]
    with opened(page) as tab:
        assert not tab.is_visible('#detail')
        image = tab.get_by_role('button', name='references 0:')
        image.first.focus()
        for _ in range(24 + 3): tab.keyboard.press('ArrowRight')
        tab.keyboard.press('Enter')
        assert tab.inner_text('#detail-title') == f'untuned 3: {row.votes} of 8 classifiers say humming<b>bird'
        facts = tab.inner_text('#detail-facts')
        for text in ('00003.png', 'a photo of a <i>untuned</i> feeder', '1003'): assert text in facts
        import hashlib
        assert hashlib.sha256((run/'images'/'untuned'/'00003.png').read_bytes()).hexdigest() in facts
        for k, judge in enumerate(JUDGES):
            names = tab.locator('.answers').nth(k).locator('.line span:first-child').all_inner_texts()
            assert names == [one.rpartition('=')[0] for one in row[f'top5.{judge}'].split('|')]
        alphas = tab.locator('#detail-alpha .line span:last-child').all_inner_texts()
        assert alphas == [f'{row["alpha.0"]:.2f}', f'{row["alpha.3"]:.2f}']
        tab.wait_for_function('document.getElementById("detail-image").naturalWidth === 64')
        tab.keyboard.press('ArrowRight')
        assert tab.inner_text('#detail-title').startswith('untuned 4:')
        tab.keyboard.press('Escape')
        assert not tab.is_visible('#detail') and tab.evaluate('document.activeElement.alt').startswith('untuned 3:')


def test_names_of_files_stay_in_their_place(tmp_path):
    "Names of files, however long or odd, neither overlap the answers nor reverse the words around them."
    from spurnb.report.page import write_report
    run = made_up_run(tmp_path/'run', n=3)
    metrics = json.loads((run/'metrics.json').read_text())
    metrics['arms'] = dict(images=metrics['arms']['sfsl'])
    metrics['classifiers'] = {j: dict(images=r['sfsl']) for j, r in metrics['classifiers'].items()}
    metrics['differences'] = {}
    (run/'metrics.json').write_text(json.dumps(metrics))
    (run/'scores.csv').write_text((run/'scores.csv').read_text().replace('sfsl,', 'images,'))
    names = ['a'*240 + '.png', 'IMG<i>_0001-of_a_holiday.png', '\u202egnp.exe.png']
    for name, file in zip(names, sorted((run/'images'/'sfsl').glob('*.png'))): shutil.copy(file, tmp_path/name)
    for width in (390, 1200):
        with opened(write_report(run, dict(images=[tmp_path/name for name in names])), width) as tab:
            side = 'r.querySelector("{}").getBoundingClientRect().{}'.format
            ends = side('.called', 'right'), side('.count', 'left')
            boxes = tab.evaluate(f'[...document.querySelectorAll("#rows tr")].map(r => [{", ".join(ends)}])')
            assert len(boxes) == 3 and all(name <= count for name, count in boxes)
            tab.locator('#rows button').first.click()
            assert '…' in tab.inner_text('#detail-title') and names[0] in tab.inner_text('#detail-facts')


def test_not_defined_says_why(page):
    with opened(page) as tab:
        cell = tab.locator('#table td', has_text='not defined').first
        why = cell.locator('a').get_attribute('title')
        assert why in tab.inner_text('.reasons')
        assert cell.locator('a').get_attribute('href') == '#why-' + cell.locator('a').inner_text()
        assert 'resnet999' in tab.inner_text('#left-out') and 'broken <i>.jpg' in tab.inner_text('#left-out')


def test_without_javascript(page):
    "Everything but the board works."
    with opened(page, java_script_enabled=False) as tab:
        assert 'needs JavaScript' in tab.inner_text('#board') and not tab.is_visible('#tools')
        assert '90%' in tab.inner_text('#summary') and tab.locator('#images img').count() == 5*24


def test_leaderboard_sorts(run, tmp_path):
    "A heading sorts by its run, and again in reverse; both runs have the same images, so there are differences."
    from spurnb.report.leaderboard import compare_audits
    shutil.copytree(run, tmp_path/'again', ignore=shutil.ignore_patterns('images'))
    metrics = json.loads((tmp_path/'again'/'metrics.json').read_text())
    del metrics['classifiers'][JUDGES[0]]
    metrics['judges'][JUDGES[1]]['weights'] = 'f'*12
    (tmp_path/'again'/'metrics.json').write_text(json.dumps(metrics))
    board, pairs = compare_audits([run, tmp_path/'again'], tmp_path/'board')
    assert set(pairs.classifier) == {'mean', *JUDGES} and (pairs.value == 0).all()
    rates = board[(board.run == 'made up') & (board.classifier != 'mean')].value.tolist()
    with opened(tmp_path/'board'/'leaderboard.html') as tab:
        def column(k):
            values = [c.get_attribute('data-value') for c in tab.locator(f'#rates tbody tr td:nth-child({k})').all()]
            return [float(v) if v else None for v in values]
        tab.click('#rates th:nth-child(2) button')
        assert column(2)[-1] is None and column(2)[:-1] == pytest.approx(sorted(rates, reverse=True), abs=1e-4)
        assert tab.locator('#rates th:nth-child(2)').get_attribute('aria-sort') == 'descending'
        tab.click('#rates th:nth-child(2) button')
        assert column(2)[-1] is None # the one that was not asked stays last
        assert column(2)[:-1] == pytest.approx(sorted(rates), abs=1e-4)
        tab.click('#rates th:nth-child(1) button')
        names = tab.locator('#rates tbody th').all_inner_texts()
        assert len(names) == 9 and names == sorted(names, key=str.lower)
        assert tab.locator('#differences tbody tr').count() == 9


def test_only_judged_images_are_on_the_page(tmp_path):
    "Files that were added, or replaced since the audit, have no scores and are not shown."
    import numpy as np, pandas as pd
    from spurnb.data import load_rgb
    from spurnb.photos.folders import pixel_hash
    from spurnb.report.records import arm_files, image_records, read_scores
    folder = made_up_run(tmp_path/'run', n=4)
    arm = folder/'images'/'untuned'
    scores = read_scores(folder)
    mine = scores.arm == 'untuned'
    scores.loc[mine, 'hash'] = [pixel_hash(load_rgb(f)) for f in arm_files(arm)]
    scores.to_csv(folder/'scores.csv', index=False)
    metrics = json.loads((folder/'metrics.json').read_text())
    def shown(): return [r['file'] for r in image_records(metrics, read_scores(folder), dict(untuned=arm_files(arm)))]
    before = shown()
    assert len(before) == 4
    Image.new('RGB', (9, 9)).save(arm/before[1])
    Image.new('RGB', (9, 9)).save(arm/'99999.png')
    (arm/before[3]).write_bytes(b'broken')
    assert shown() == [before[0], before[2]]


def test_an_image_has_an_address(page):
    "The address of an open image opens it again; without a script it is an anchor."
    with opened(page) as tab:
        tab.locator('#rows button').first.click()
        tab.locator('#detail').wait_for(state='visible')
        tab.wait_for_function('document.getElementById(location.hash.slice(1))?.tagName === "IMG"')
        address = tab.evaluate('location.hash')
        title = tab.inner_text('#detail-title')
        assert tab.locator(f'img[id="{address[1:]}"]').count() == 1
        tab.keyboard.press('Escape')
        tab.wait_for_function('location.hash === "#images"')
        tab.evaluate(f'location.hash = "{address}"')
        tab.locator('#detail').wait_for(state='visible')
        assert tab.inner_text('#detail-title') == title


def test_a_printed_page_is_not_cut(page):
    "On A4 nothing is wider than the paper, in particular no table or row of images that would scroll on a screen."
    with opened(page, 688) as tab: # 210 mm less margins, at 96 pixels an inch
        tab.emulate_media(media='print')
        assert tab.evaluate('document.documentElement.scrollWidth') <= 688
        parts = '[...document.querySelectorAll("td, th, img, p, pre")]'
        beyond = f'{parts}.filter(e => e.getBoundingClientRect().right > 689)'
        assert tab.evaluate(f'{beyond}.map(e => e.outerHTML.slice(0, 80))') == []
        heads = set(tab.locator('thead th').all_inner_texts())
        assert not [word for word in tab.evaluate(CUT) if any(word in head.split() for head in heads)]
        kept = '(name, kept) => getComputedStyle(document.querySelector(name))[kept]'
        assert tab.evaluate(f'({kept})("dt", "breakAfter")') == 'avoid' # a term stays with its definition
        assert tab.evaluate(f'({kept})("p.soft", "breakInside")') == 'avoid'
        assert tab.evaluate(f'({kept})("summary", "breakAfter")') == 'avoid' # a closed section's title, too


def test_closed_sections_are_printed(page):
    parts = '[...document.querySelectorAll("details:not([open]) > :not(summary)")]'
    closed = f'{parts}.map(e => e.checkVisibility({{contentVisibilityAuto: true}}))'
    with opened(page) as tab:
        assert tab.evaluate(closed) and not any(tab.evaluate(closed))
        tab.emulate_media(media='print')
        tab.wait_for_function(f'{closed}.every(Boolean)', timeout=5000) # the style takes effect with the next frame


def test_closed_sections_are_printed(page):
    parts = '[...document.querySelectorAll("details:not([open]) > :not(summary)")]'
    closed = f'{parts}.map(e => e.checkVisibility({{contentVisibilityAuto: true}}))'
    with opened(page) as tab:
        assert tab.evaluate(closed) and not any(tab.evaluate(closed))
        tab.emulate_media(media='print')
        tab.wait_for_function(f'{closed}.every(Boolean)', timeout=5000) # the style takes effect with the next frame


def test_images_are_larger_on_wide_screens(page):
    with opened(page, 1200) as tab: usual = tab.locator('#images td img').first.bounding_box()['width']
    with opened(page, 1800) as tab: assert tab.locator('#images td img').first.bounding_box()['width'] > 1.3*usual


def test_the_page_itself_is_small(page):
    "Without its images and what is known of them."
    html = re.sub(r'src="data:[^"]*"|<script type="application/json".*?</script>', '', page.read_text(), flags=re.S)
    assert len(html.encode()) < 200_000


def test_a_meter_s_note_says_what_is_known():
    from spurnb.report.page import _notes
    share = dict(value=.95, low=.9, high=1, n=60)
    meters = dict(object=dict(recall=share, false_positives=share | dict(value=.03)),
                  feature=dict(recall=share, false_positives=share | dict(value=None, why='not defined')))
    notes = dict(_notes(dict(arms={}, meters=meters)))
    said = 'It says yes to 95% of the images with the object and to 3% of those without.'
    assert notes['Meter of the object'] == said
    assert notes['Meter of the feature'] == 'It says yes to 95% of the images with the feature.'

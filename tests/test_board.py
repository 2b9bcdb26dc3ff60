"The component board in a real browser: JupyterLab is started, a small notebook is run, and its buttons are pressed."
import json, os, shutil, socket, subprocess, sys, time, urllib.error, urllib.request

import pytest

from spurnb.data import mini_root

CODE = '''from spurnb.board import Board
from spurnb.data import mini_class_images
from spurnb.features import NeuralPCA, load_encoder
images = mini_class_images('hummingbird', 40)
Board(NeuralPCA.fit(load_encoder(), images, target=0), images, 'labels.json', 'ann', name='hummingbird', components=4, steps=20)'''


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A folder with one notebook, and the address where JupyterLab shows it."
    pytest.importorskip('jupyterlab')
    if not (mini_root()/'record.json').exists(): pytest.skip("the mini world's weights are not there")
    folder = tmp_path_factory.mktemp('lab')
    cell = dict(cell_type='code', id='a', metadata={}, execution_count=None, outputs=[], source=CODE)
    kernel = dict(name='python3', display_name='Python 3', language='python')
    (folder/'board.ipynb').write_text(json.dumps(dict(cells=[cell], metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)))
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    own = {f'JUPYTER_{k}_DIR': str(folder/'.jupyter'/k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')} | dict(JUPYTERLAB_SETTINGS_DIR=str(folder/'.jupyter'/'lab'))
    quiet = folder/'.jupyter'/'lab'/'@jupyterlab'/'apputils-extension'/'notification.jupyterlab-settings'
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps(dict(fetchNews='false', checkForUpdates=False)))
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}', '--ServerApp.port_retries=0',
               '--IdentityProvider.token=', f'--ServerApp.root_dir={folder}']
    with open(folder/'lab.log', 'wb') as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=os.environ | own | dict(OMP_NUM_THREADS='1'))
        try:
            yield folder, _when_up(f'http://127.0.0.1:{port}/lab/tree/board.ipynb', server, folder/'lab.log')
        finally:
            server.terminate()
            server.wait(30)


def _when_up(url, server, log, seconds=120):
    for _ in range(2*seconds):
        assert server.poll() is None, log.read_text()
        try: return urllib.request.urlopen(url, timeout=5) and url
        except (urllib.error.URLError, TimeoutError, ConnectionError): time.sleep(.5)
    raise AssertionError(log.read_text())


def test_a_stranger_labels_in_jupyterlab(lab):
    sync = pytest.importorskip('playwright.sync_api')
    chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not chromium: pytest.skip('no Chromium')
    folder, url = lab
    with sync.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-gpu'])
        tab = browser.new_context(viewport=dict(width=1400, height=800)).new_page()
        tab.set_default_timeout(150_000)
        tab.goto(url)
        tab.click('.jp-NotebookPanel-toolbar [data-command="notebook:restart-run-all"], .jp-NotebookPanel-toolbar [data-jp-item-name="restart-and-run"]')
        tab.click('.jp-Dialog .jp-mod-accept')
        head = tab.locator('.jp-OutputArea .widget-html', has_text='labelled').first
        def answers(): return {int(n): (a['label'], a['note']) for n, a in json.loads((folder/'labels.json').read_text())['answers'].items()}
        def shows(component): head.get_by_text(f'What does component {component} light up on?').wait_for()
        def press(button): tab.locator('.jp-OutputArea button', has_text=button).click()
        shows(0)
        assert '0 of 4 labelled' in head.inner_text() and 'not the hummingbird' in head.inner_text() and not (folder/'labels.json').exists()
        page = tab.locator('.jp-OutputArea img').first
        assert page.evaluate('i => i.naturalWidth') > 600 and page.bounding_box()['width'] > 600                    # a page that can be read
        press('spurious')
        shows(1)                                                                                                        # it moves on by itself
        assert answers() == {0: ('spurious', '')} and '1 of 4 labelled' in head.inner_text()
        press('next')
        shows(2)
        tab.fill('.jp-OutputArea input', 'red <b>feeder</b>')
        press('core')                                                                                                 # leaving the field keeps the note
        shows(3)
        assert answers() == {0: ('spurious', ''), 2: ('core', 'red <b>feeder</b>')}
        press('previous')
        shows(2)
        assert tab.input_value('.jp-OutputArea input') == 'red <b>feeder</b>'
        tab.screenshot(path=folder/'board.png')
        browser.close()

"JupyterLab with one small notebook, for tests in a browser."

import json, os, shutil, socket, subprocess, sys, time, urllib.error, urllib.request
from contextlib import contextmanager

import pytest


@contextmanager
def jupyterlab(folder, code):
    "The address at which JupyterLab shows a notebook in `folder` whose one cell is `code`."
    pytest.importorskip('jupyterlab')
    cell = dict(cell_type='code', id='a', metadata={}, execution_count=None, outputs=[], source=code)
    kernel = dict(name='python3', display_name='Python 3', language='python')
    (folder / 'board.ipynb').write_text(
        json.dumps(dict(cells=[cell], metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5))
    )
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    own = {
        f'JUPYTER_{k}_DIR': str(folder / '.jupyter' / k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')
    } | dict(JUPYTERLAB_SETTINGS_DIR=str(folder / '.jupyter' / 'lab'))
    quiet = (
        folder
        / '.jupyter'
        / 'lab'
        / '@jupyterlab'
        / 'apputils-extension'
        / 'notification.jupyterlab-settings'
    )
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps(dict(fetchNews='false', checkForUpdates=False)))
    command = [
        sys.executable,
        '-m',
        'jupyterlab',
        '--no-browser',
        '--allow-root',
        '--ip=127.0.0.1',
        f'--port={port}',
        '--ServerApp.port_retries=0',
        '--IdentityProvider.token=',
        f'--ServerApp.root_dir={folder}',
    ]
    with open(folder / 'lab.log', 'wb') as log:
        server = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=os.environ | own | dict(OMP_NUM_THREADS='1')
        )
        try:
            yield _when_up(f'http://127.0.0.1:{port}/lab/tree/board.ipynb', server, folder / 'lab.log')
        finally:
            server.terminate()
            server.wait(30)


def _when_up(url, server, log, seconds=120):
    for _ in range(2 * seconds):
        assert server.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(url, timeout=5) and url
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
    raise AssertionError(log.read_text())


@contextmanager
def ran(url):
    "A tab in which the notebook at `url` has been started."
    sync = pytest.importorskip('playwright.sync_api')
    chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not chromium:
        pytest.skip('no Chromium')
    with sync.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-gpu'])
        tab = browser.new_context(viewport=dict(width=1400, height=800)).new_page()
        tab.set_default_timeout(150_000)
        tab.goto(url)
        for patience in (
            40_000,
            60_000,
            150_000,
        ):  # JupyterLab may lose what it sends to a kernel that is starting; then it is asked again
            tab.click(
                '.jp-NotebookPanel-toolbar [data-command="notebook:restart-run-all"], '
                '.jp-NotebookPanel-toolbar [data-jp-item-name="restart-and-run"]'
            )
            tab.click('.jp-Dialog .jp-mod-accept')
            try:
                tab.locator('.jp-InputPrompt', has_text='[1]:').wait_for(timeout=patience)
            except sync.TimeoutError:
                continue
            break
        yield tab
        browser.close()

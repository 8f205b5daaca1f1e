"""A headless Chromium that tests steer through the pipe of its DevTools protocol."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time

import pytest

CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium')

SECONDS = 60


class Browser:
    """One page of a browser.

    ``events`` has the errors, messages and requests of the page so far.
    """

    def __init__(self, folder):
        ours = [*os.pipe(), *os.pipe()]
        # The browser reads from 3 and writes to 4.
        high = [fcntl.fcntl(ours[place], fcntl.F_DUPFD, 50) for place in (0, 3)]

        def connect():
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self._process = subprocess.Popen(
            [CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--remote-debugging-pipe',
             f'--user-data-dir={folder}', '--window-size=1200,900'],
            preexec_fn=connect, close_fds=False, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for descriptor in (*high, ours[0], ours[3]):
            os.close(descriptor)
        self._write, self._read = ours[1], ours[2]
        self._buffer, self._number, self._session, self.events = b'', 0, None, []
        target = self.send('Target.createTarget', url='about:blank')['targetId']
        attached = self.send('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.send(f'{domain}.enable')

    @property
    def process(self):
        """The number of its process."""
        return self._process.pid

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def send(self, method, **params):
        """Sends a command; returns its result."""
        self._number += 1
        message = {'id': self._number, 'method': method, 'params': params}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._write, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._receive()
            if answer.get('id') == self._number:
                assert 'error' not in answer, answer
                return answer['result']
            self.events.append(answer)

    def _receive(self):
        while b'\0' not in self._buffer:
            assert select.select([self._read], [], [], SECONDS)[0], 'the browser does not answer'
            found = os.read(self._read, 1 << 20)
            assert found, 'the browser has ended'
            self._buffer += found
        message, _, self._buffer = self._buffer.partition(b'\0')
        return json.loads(message)

    def run(self, expression):
        """The JSON value of an expression of JavaScript."""
        answer = self.send('Runtime.evaluate', expression=expression, returnByValue=True)
        assert 'exceptionDetails' not in answer, answer
        return answer['result'].get('value')

    def wait(self, condition, seconds=SECONDS):
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def open(self, path, place=''):
        """Opens a file, at a place in it such as '#here'."""
        url = path.as_uri() + place
        self.send('Page.navigate', url=url)
        self.wait(f'location.href === {json.dumps(url)} '
                  "&& document.readyState === 'complete'")  # fmt: skip

    def mouse(self, kind, x, y, **more):
        """Moves the pointer ('Moved'), or presses or releases its button."""
        button = {} if kind in ('Moved', 'Wheel') else {'button': 'left', 'clickCount': 1}
        self.send('Input.dispatchMouseEvent', type=f'mouse{kind}', x=x, y=y, **button, **more)

    def click(self, x, y):
        self.mouse('Pressed', x, y)
        self.mouse('Released', x, y)

    def key(self, name):
        text = {'text': name} if len(name) == 1 else {}
        for kind in ('keyDown', 'keyUp'):
            self.send('Input.dispatchKeyEvent', type=kind, key=name, **text)
            text = {}

    @property
    def faults(self):
        """Errors and messages in the console."""
        kinds = ('Runtime.exceptionThrown', 'Runtime.consoleAPICalled', 'Log.entryAdded')
        return [event['params'] for event in self.events if event.get('method') in kinds]

    @property
    def requests(self):
        """The addresses of what was loaded."""
        return [
            event['params']['request']['url']
            for event in self.events
            if event.get('method') == 'Network.requestWillBeSent'
        ]


@pytest.fixture
def browser(tmp_path):
    with contextlib.closing(Browser(tmp_path / 'browser')) as opened:
        yield opened

import time

from ffloop import uv


def test_a_timer_calls_back_once_and_never_early():
    loop = uv.Loop()
    called = []
    timer = uv.Timer(loop)
    started = time.monotonic()
    timer.start(lambda: called.append(time.monotonic()), 0.02)
    while not called:
        if loop.poll(5):
            loop.dispatch()
    assert called[0] - started >= 0.02
    assert loop.poll(0.01) == 0
    loop.close()

"""What is printed is our own."""

import sys
from threading import Thread

from flexray.sim.quiet import without_ray


def test_only_rays_own_thread_is_not_heard(capsys):
    before = sys.stdout
    with without_ray():
        for name in ("ray_listen_error_messages", "mine"):
            thread = Thread(target=print, args=(name,), name=name)
            thread.start()
            thread.join()
        print("main")
        assert sys.stdout.encoding == before.encoding
    assert capsys.readouterr().out == "mine\nmain\n"
    assert sys.stdout is before


def test_unless_it_is_wanted(capsys):
    with without_ray(False):
        thread = Thread(target=print, args=("all",), name="ray_listen_error_messages")
        thread.start()
        thread.join()
    assert capsys.readouterr().out == "all\n"

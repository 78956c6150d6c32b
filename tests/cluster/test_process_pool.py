"""Processes that are no longer needed end without a word."""

from __future__ import annotations

import multiprocessing
import signal

from voco_video.cluster.pieces import Job
from voco_video.cluster.process_pool import ProcessPool, _send
from voco_video.options.compression import CompressOptions
from voco_video.options.loading import LoadOptions
from voco_video.options.sampling import Sampling


def test_a_worker_that_is_still_loading_when_all_is_done_is_ended_at_once(tmp_path, capfd):
    pool = ProcessPool(Job("voco-tiny", LoadOptions(), Sampling(), CompressOptions(), str(tmp_path)))
    with pool:
        number = pool.start()
        process, _ = pool._processes[number]
    assert process.exitcode == -signal.SIGTERM
    assert capfd.readouterr() == ("", "")


def test_a_message_that_nobody_takes_is_no_failure():
    ours, theirs = multiprocessing.Pipe()
    assert _send(theirs, "ready")
    ours.close()
    assert not _send(theirs, "ready")

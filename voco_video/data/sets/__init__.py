"""One file a public set: its layout, its sizes, and what its authors ask. A new set is a file here and a line below."""

from __future__ import annotations

from voco_video.data.sets import (
    activitynet_captions,
    charades_sta,
    longvideobench,
    lvbench,
    mvbench,
    qvhighlights,
    tempcompass,
    timescope,
)

SETS = {
    one.name: one
    for one in (
        lvbench.SET,
        longvideobench.SET,
        mvbench.SET,
        *tempcompass.SETS,
        timescope.SET,
        charades_sta.SET,
        activitynet_captions.SET,
        qvhighlights.SET,
    )
}
"""The sets by their names."""

"""What an emulated board shows of itself: a tree of files as the kernel of the real one has them.

The agent is given ``/run/board`` as its root.  What is the emulated machine's own (memory, load, kernel) is
a link to it; device tree, clocks, temperature and throttle flags are files, because the emulated kernel has
none.  They come with the first file system, so that they are there however the board was started.
"""

from __future__ import annotations

from devices.emulation import cpio, firmware
from devices.emulation.image import Image
from devices.emulation.power_model import State
from devices.emulation.recipe import Profile

ROOT = "/run/board"
"""Where the tree is on the board."""

_OWN = (
    *("proc/cmdline", "proc/cpuinfo", "proc/loadavg", "proc/meminfo", "proc/pressure", "proc/stat"),
    *("proc/self", "proc/sys", "proc/vmstat", "etc", "usr", "sys/block"),
)
TEMPERATURE = "sys/class/thermal/thermal_zone0/temp"
THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
CLOCK = "sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq"
SERIAL = "proc/device-tree/serial-number"
_THROTTLED_BIT = 0x4  # of the firmware of Raspberry Pi boards
SENSOR = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon0"
RAIL_V = 5.0
PMIC = f"dev/{firmware.DEVICE}"
PMIC_POWER = firmware.POWER.name


def tree(profile: Profile, cpus: int) -> dict[str, str]:
    """Files of a board at rest, path to content.

    Args:
        profile: Its model.
        cpus: Number of its CPUs.
    """
    low_hz, high_hz = profile.clocks_hz
    files = {
        "proc/device-tree/model": f"{profile.model} (emulated)\0",
        SERIAL: "0000000000000000\0",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    }
    if profile.power.rail:
        files |= {
            f"{SENSOR}/name": "ina3221\n",
            f"{SENSOR}/in1_label": f"{profile.power.rail}\n",
            f"{SENSOR}/in1_enable": "1\n",
            f"{SENSOR}/shunt1_resistor": "5000\n",
        }
    files |= {path: text or "" for path, text in shown(profile, cpus, profile.power.rest).items()}
    for cpu in range(cpus):
        folder = f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        files |= {
            f"{folder}/cpuinfo_min_freq": f"{low_hz // 1000}\n",
            f"{folder}/cpuinfo_max_freq": f"{high_hz // 1000}\n",
            f"{folder}/scaling_governor": "performance\n",
        }
    return files


def shown(profile: Profile, cpus: int, state: State) -> dict[str, str | None]:
    """Files in which a state shows, path to content; None for a sensor that cannot be read."""
    low_hz, high_hz = profile.clocks_hz
    clock = f"{(low_hz if state.throttled else high_hz) // 1000}\n"
    warm = None if state.temperature_c is None else f"{1000 * state.temperature_c:.0f}\n"
    files: dict[str, str | None] = {CLOCK.format(cpu=cpu): clock for cpu in range(cpus)}
    files |= {TEMPERATURE: warm, THROTTLED: f"{_THROTTLED_BIT if state.throttled else 0:x}\n"}
    if profile.power.rail:
        silent = state.power_w is None
        files[f"{SENSOR}/in1_input"] = None if silent else f"{1000 * RAIL_V:.0f}\n"
        files[f"{SENSOR}/curr1_input"] = None if silent else f"{1000 * (state.power_w or 0.0) / RAIL_V:.0f}\n"
    if profile.power.pmic:
        files[PMIC_POWER] = None if state.power_w is None else f"{state.power_w:.6f}\n"
    return files


def first_files(image: Image, profile: Profile, cpus: int) -> bytes:
    """The first file system of an image with the tree of a profile, as the kernel takes them together."""
    first = image.first_files.read_bytes()
    # The kernel looks for an uncompressed archive at multiples of four only.
    return first + bytes(-len(first) % 4) + _archive(profile, cpus)


def _archive(profile: Profile, cpus: int) -> bytes:
    files = [cpio.file(f"board/{path}", text.encode()) for path, text in tree(profile, cpus).items()]
    own = (*_OWN, PMIC) if profile.power.pmic else _OWN
    links = [cpio.link(f"board/{path}", f"/{path}") for path in own]
    return cpio.pack(cpio.with_parents([*files, *links]))

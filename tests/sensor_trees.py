"""Trees of sensor files as boards have them, one function per board generation; decoys included.

Paths, names and numbers are those of the boards (kernel drivers, captured listings); where a folder is a
link on a board, it is one here.
"""

from __future__ import annotations

from pathlib import Path

I2C = "sys/bus/i2c/drivers"
POWERCAP = "sys/class/powercap"
SUPPLY = "sys/class/power_supply"

Files = dict[str, object]


def plant(root: Path, files: Files) -> str:
    """Writes files below a folder; gives the folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return str(root)


def ina3221_iio(place: str, rails: dict[int, tuple[str, int, int]]) -> Files:
    """NVIDIA's driver of JetPack 4: per channel its name, millivolts and milliamperes."""
    folder = f"{I2C}/ina3221x/{place}"
    files: Files = {}
    for number in range(3):
        name, millivolts, milliamperes = rails.get(number, ("NC", 0, 0))
        files[f"{folder}/rail_name_{number}"] = name
        files[f"{folder}/in_voltage{number}_input"] = millivolts
        files[f"{folder}/in_current{number}_input"] = milliamperes
        files[f"{folder}/in_power{number}_input"] = millivolts * milliamperes // 1000
        files[f"{folder}/crit_current_limit_{number}"] = 3000
    return files


def ina3221_hwmon(
    place: str, rails: dict[int, tuple[str, int, int]], *, shunt_uohm: int, samples: int = 1
) -> Files:
    """The kernel's driver of JetPack 5 and 6; there is no power file."""
    folder = f"{I2C}/ina3221/{place}"
    files: Files = {f"{folder}/name": "ina3221", f"{folder}/samples": samples, f"{folder}/update_interval": 7}
    for number in (1, 2, 3):
        name, millivolts, milliamperes = rails.get(number, ("NC", 0, 0))
        files[f"{folder}/in{number}_label"] = name
        files[f"{folder}/in{number}_enable"] = 1
        files[f"{folder}/in{number}_input"] = millivolts
        files[f"{folder}/curr{number}_input"] = milliamperes
        files[f"{folder}/shunt{number}_resistor"] = shunt_uohm
    # The sum of the shunt voltages that newer drivers give as a seventh channel is no power.
    files[f"{folder}/in7_label"] = "sum of shunt voltages"
    files[f"{folder}/in7_input"] = 3
    return files


def jetson_nano() -> Files:
    """JetPack 4; 5.0 V and 0.6 A of it: 3.0 W."""
    rails = {0: ("POM_5V_IN", 5000, 600), 1: ("POM_5V_GPU", 5000, 40), 2: ("POM_5V_CPU", 5000, 200)}
    return {**ina3221_iio("6-0040/iio:device0", rails), **ucsi_decoy()}


def jetson_tx2() -> Files:
    """JetPack 4, two chips; VDD_IN is 19 V and 0.4 A: 7.6 W."""
    first = {0: ("VDD_IN", 19000, 400), 1: ("VDD_SYS_CPU", 19000, 80), 2: ("VDD_SYS_DDR", 19000, 60)}
    second = {0: ("VDD_SYS_GPU", 19000, 40), 1: ("VDD_SYS_SOC", 19000, 50), 2: ("VDD_4V0_WIFI", 4800, 4)}
    return {**ina3221_iio("0-0040/iio:device0", second), **ina3221_iio("0-0041/iio:device1", first)}


def jetson_agx_xavier() -> Files:
    """JetPack 4, two chips and no total: six rails of 19 V, 0.1 to 0.6 A: 39.9 W in all."""
    first = {0: ("GPU", 19000, 100), 1: ("CPU", 19000, 200), 2: ("SOC", 19000, 300)}
    second = {0: ("CV", 19000, 400), 1: ("VDDRQ", 19000, 500), 2: ("SYS5V", 19000, 600)}
    return {**ina3221_iio("1-0040/iio:device0", first), **ina3221_iio("1-0041/iio:device1", second)}


def jetson_xavier_nx_jetpack4() -> Files:
    """One chip with a total: 5.0 V and 1.0 A."""
    rails = {0: ("VDD_IN", 5000, 1000), 1: ("VDD_CPU_GPU_CV", 5000, 300), 2: ("VDD_SOC", 5000, 250)}
    return ina3221_iio("7-0040/iio:device0", rails)


def jetson_orin_nano(*, samples: int = 1) -> Files:
    """JetPack 6, shunts of 5 mOhm: 5.0 V and 1.0 A."""
    rails = {1: ("VDD_IN", 5000, 1000), 2: ("VDD_CPU_GPU_CV", 5000, 400), 3: ("VDD_SOC", 5000, 296)}
    tree = ina3221_hwmon("1-0040/hwmon/hwmon1", rails, shunt_uohm=5000, samples=samples)
    return {**tree, **ucsi_decoy()}


def jetson_agx_orin() -> Files:
    """JetPack 5, two chips, shunts of 2 mOhm, and no total; the memory's rail hangs below VIN_SYS_5V0.

    20 V and 0.3 A, 20 V and 0.1 A, 5 V and 0.8 A: 12 W; the memory takes 5 V and 0.2 A of the last.
    """
    first = {1: ("VDD_GPU_SOC", 20000, 300), 2: ("VDD_CPU_CV", 20000, 100), 3: ("VIN_SYS_5V0", 5000, 800)}
    second = {2: ("VDDQ_VDD2_1V8AO", 5000, 200)}
    return {
        **ina3221_hwmon("1-0040/hwmon/hwmon3", first, shunt_uohm=2000),
        **ina3221_hwmon("1-0041/hwmon/hwmon4", second, shunt_uohm=2000),
        **ucsi_decoy(),
    }


def jetson_thor() -> Files:
    """An INA238 for the whole input, 42.5 W, beside an INA3221."""
    folder = "sys/bus/i2c/devices/2-0044/hwmon/hwmon5"
    total: Files = {f"{folder}/name": "ina238", f"{folder}/power1_input": 42_500_000}
    rails = {1: ("VDD_GPU", 20000, 900), 2: ("VDD_CPU_SOC_MSS", 20000, 500)}
    return {**total, **ina3221_hwmon("2-0040/hwmon/hwmon4", rails, shunt_uohm=2000)}


def raspberry_pi_5() -> Files:
    """The device file is there; what it answers, a test has to play."""
    return {"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0", "dev/vcio": ""}


def raspberry_pi_4() -> Files:
    """It has the mailbox too, and measures no current."""
    return {
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "dev/vcio": "",
        "sys/class/hwmon/hwmon0/name": "cpu_thermal",
        "sys/class/hwmon/hwmon0/temp1_input": 50000,
        "sys/class/hwmon/hwmon1/name": "rpi_volt",
        "sys/class/hwmon/hwmon1/in0_lcrit_alarm": 0,
    }


def rapl(*, energies_uj: tuple[int, ...] = (1_000_000,), range_uj: int = 262_143_328_850) -> Files:
    """A PC: packages, their parts, and the whole platform as a decoy."""
    files: Files = {f"{POWERCAP}/intel-rapl/enabled": 1}
    for number, energy_uj in enumerate(energies_uj):
        zone = f"{POWERCAP}/intel-rapl:{number}"
        for name, folder, part_uj in (
            (f"package-{number}", zone, energy_uj),
            ("core", f"{zone}:0", energy_uj // 2),
            ("dram", f"{zone}:1", energy_uj // 4),
        ):
            files[f"{folder}/name"] = name
            files[f"{folder}/energy_uj"] = part_uj
            files[f"{folder}/max_energy_range_uj"] = range_uj
    files[f"{POWERCAP}/intel-rapl:{len(energies_uj)}/name"] = "psys"
    files[f"{POWERCAP}/intel-rapl:{len(energies_uj)}/energy_uj"] = 9_999_999
    return files


def ina226() -> Files:
    """Wired by the owner: 2.5 W, a new value every 35 ms; beside it a disk's and a network card's sensor."""
    chip = "sys/class/hwmon/hwmon2"
    return {
        f"{chip}/name": "ina226",
        f"{chip}/power1_input": 2_500_000,
        f"{chip}/in1_input": 5000,
        f"{chip}/curr1_input": 500,
        f"{chip}/update_interval": 35,
        "sys/class/hwmon/hwmon0/name": "nvme",
        "sys/class/hwmon/hwmon0/temp1_input": 40000,
        "sys/class/hwmon/hwmon1/name": "ucsi_source_psy_USBC000:001",
        "sys/class/hwmon/hwmon1/in1_input": 20000,
        "sys/class/hwmon/hwmon1/curr1_input": 3000,
    }


def laptop(*, status: str = "Discharging", power_uw: int = 8_000_000) -> Files:
    """A battery, its mains adapter and a USB-C port."""
    return {
        f"{SUPPLY}/AC/type": "Mains",
        f"{SUPPLY}/AC/online": 0,
        f"{SUPPLY}/BAT0/type": "Battery",
        f"{SUPPLY}/BAT0/status": status,
        f"{SUPPLY}/BAT0/power_now": power_uw,
        **ucsi_decoy(),
    }


def old_laptop() -> Files:
    """A battery that gives a current with a sign: 11.5 V and 1.2 A."""
    return {
        f"{SUPPLY}/BAT1/type": "Battery",
        f"{SUPPLY}/BAT1/status": "Discharging",
        f"{SUPPLY}/BAT1/voltage_now": 11_500_000,
        f"{SUPPLY}/BAT1/current_now": -1_200_000,
    }


def ucsi_decoy() -> Files:
    """What a USB-C supply has negotiated: nobody measured it."""
    port = f"{SUPPLY}/ucsi-source-psy-2-00081"
    return {
        f"{port}/type": "USB",
        f"{port}/status": "Discharging",
        f"{port}/voltage_now": 20_000_000,
        f"{port}/current_now": 3_000_000,
    }


PMIC = """   3V7_WL_SW_A current(0)=0.07805760A
   3V3_SYS_A current(1)=0.06441684A
   1V8_SYS_A current(2)=0.16250000A
  DDR_VDD2_A current(3)=0.02342976A
  DDR_VDDQ_A current(4)=0.00000000A
   1V1_SYS_A current(5)=0.18150000A
    0V8_SW_A current(6)=0.35100000A
  VDD_CORE_A current(7)=1.20000000A
   3V3_DAC_A current(17)=0.00042735A
   3V3_ADC_A current(18)=0.00067155A
   0V8_AON_A current(16)=0.00384615A
      HDMI_A current(22)=0.02930400A
   3V7_WL_SW_V volt(8)=3.69634600V
   3V3_SYS_V volt(9)=3.31257000V
   1V8_SYS_V volt(10)=1.79926000V
  DDR_VDD2_V volt(11)=1.10842700V
  DDR_VDDQ_V volt(12)=0.61021200V
   1V1_SYS_V volt(13)=1.10659600V
    0V8_SW_V volt(14)=0.80219400V
  VDD_CORE_V volt(15)=0.75000000V
   3V3_DAC_V volt(20)=3.30952300V
   3V3_ADC_V volt(21)=3.30861100V
   0V8_AON_V volt(19)=0.79755120V
      HDMI_V volt(23)=5.08040000V
     EXT5V_V volt(24)=5.07970000V
      BATT_V volt(25)=0.00488281V
"""
"""What a Pi 5 answers: twelve currents, fourteen voltages."""

PMIC_W = 2.35826015
"""Current times voltage, summed over the twelve pairs."""

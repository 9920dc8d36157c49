# SPDX-License-Identifier: Apache-2.0
# mujoco's compiled classes carry no types:
# pyright: reportAttributeAccessIssue=false
"""The tabletop as a MuJoCo model: primitives only, so that MuJoCo's own ray caster can render it.

Metres, radians, seconds. The robot reaches in from -x, the front camera looks from +x; +y is right
in the front view. The table's top is the plane z = 0.
"""

from dataclasses import dataclass
from typing import Literal

import mujoco
import numpy as np

Domain = Literal["robot", "hand"]

CUBE_COLORS = {
    "red": (0.86, 0.12, 0.10),
    "green": (0.12, 0.62, 0.18),
    "blue": (0.12, 0.28, 0.88),
    "yellow": (0.98, 0.84, 0.08),
}
GOALS = ("bin", "plate")

# 6 cm cubes are 8 pixels wide in the 64-pixel front view. With 4-pixel cubes neither the world
# model nor behaviour cloning finds out which cube an instruction names.
CUBE_HALF_SIZE = 0.03
BIN_HALF_SIZE, BIN_WALL_HEIGHT = 0.056, 0.025
PLATE_RADIUS = 0.058
FINGER_OPENING = 0.046  # of one finger from the middle, when open

# Geom groups, by which the renderers choose: furniture; fingers and free cubes; the table; contact
# shapes never seen; the palm and arm, which the wrist camera is bolted to.
STATIC_GROUP, MOVING_GROUP, TABLE_GROUP, HIDDEN_GROUP, ATTACHED_GROUP = range(5)
TABLE_HALF_SIZE = 0.6

_FINGER_CONTACT = 'friction="2 .05 .001" condim="4"'
_NO_CONTACT = 'contype="0" conaffinity="0"'


@dataclass(frozen=True)
class Look:
    """What differs between the robot's pictures and the second video domain.

    Args:
        table_colors: The two colours of the table's pattern, RGB in [0, 1].
        table_tile: Size of one tile of the pattern along x and y, in metres; infinite for stripes.
        light: Direction towards the light; need not have unit length.
        ambient: Share of the colour that reaches faces turned from the light, in [0, 1].
        camera: Azimuth and elevation of the front camera in degrees, and its distance in metres.
        center: Where on the table, along x, the front camera looks.
        fovy: Field of view of the front camera in degrees.
    """

    table_colors: tuple[tuple[float, float, float], tuple[float, float, float]]
    table_tile: tuple[float, float]
    light: tuple[float, float, float]
    ambient: float
    camera: tuple[float, float, float]
    center: float
    fovy: float


# A far camera with a narrow lens: cubes keep their size in pixels wherever they lie.
LOOKS: dict[Domain, Look] = {
    "robot": Look(
        table_colors=((0.66, 0.61, 0.54), (0.60, 0.55, 0.48)),
        table_tile=(0.08, 0.08),
        light=(0.45, -0.35, 1.0),
        ambient=0.45,
        camera=(0.0, 48.0, 1.3),
        center=-0.035,
        fovy=21.6,
    ),
    "hand": Look(
        table_colors=((0.46, 0.55, 0.56), (0.52, 0.61, 0.61)),
        table_tile=(0.05, np.inf),
        light=(0.2, 0.7, 0.8),
        ambient=0.35,
        camera=(15.0, 56.0, 1.3),
        center=-0.01,
        fovy=24.0,
    ),
}


def build_model(num_cubes: int, cubes_are_fixed: bool, domain: Domain) -> mujoco.MjModel:
    """Compile the scene.

    Args:
        num_cubes: Cubes on the table, bodies `cube0`, `cube1`, ...
        cubes_are_fixed: True for cubes that are part of the furniture and no goals (reaching);
            False for free cubes with a bin and a plate.
        domain: Whose hand, table, light and camera.
    """
    look = LOOKS[domain]
    cubes = "".join(_cube(i, cubes_are_fixed) for i in range(num_cubes))
    goals = "" if cubes_are_fixed else _bin() + _plate()
    (red, green, blue), (red2, green2, blue2) = look.table_colors
    repeat = TABLE_HALF_SIZE / min(look.table_tile)  # Two tiles make one texture.
    xml = f"""
<mujoco>
 <option timestep="0.01" integrator="implicitfast" cone="elliptic" impratio="10"/>
 <visual><global offwidth="1024" offheight="1024"/>
  <headlight ambient=".35 .35 .35" diffuse=".3 .3 .3" specular="0 0 0"/></visual>
 <asset>
  <texture name="table" type="2d" builtin="checker" width="128" height="128"
   rgb1="{red} {green} {blue}" rgb2="{red2} {green2} {blue2}"/>
  <material name="table" texture="table" texrepeat="{repeat} {repeat}"/>
 </asset>
 <worldbody>
  <light pos="{_scaled(look.light, 1.5)}" dir="{_scaled(look.light, -1)}"
   diffuse=".6 .6 .6" specular=".1 .1 .1"/>
  <geom name="table" type="plane" size="{TABLE_HALF_SIZE} {TABLE_HALF_SIZE} .1"
   material="table" group="{TABLE_GROUP}"/>
  {_front_camera(look)}{goals}{cubes}
  <body name="target" mocap="true" pos="0 0 .2"/>
  {_hand(domain)}
 </worldbody>
 <contact><exclude body1="left_finger" body2="right_finger"/></contact>
 <equality><weld body1="target" body2="hand" solref=".02 1" solimp=".95 .99 .001"/></equality>
 <actuator>
  <position joint="left_finger" kp="300" ctrlrange="0 {FINGER_OPENING}" forcerange="-12 12"/>
  <position joint="right_finger" kp="300" ctrlrange="0 {FINGER_OPENING}" forcerange="-12 12"/>
 </actuator>
</mujoco>"""
    return mujoco.MjModel.from_xml_string(xml)


def _scaled(vector: tuple[float, float, float], factor: float) -> str:
    return " ".join(str(factor * x) for x in vector)


def _front_camera(look: Look) -> str:
    azimuth, elevation = np.deg2rad(look.camera[:2])
    backward = np.array(  # The camera looks along its -z axis.
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    up = np.cross(backward, right)
    position = np.array([look.center, 0.0, 0.03]) + look.camera[2] * backward
    axes = " ".join(f"{x:.9f}" for x in (*right, *up))
    place = " ".join(f"{x:.9f}" for x in position)
    return f'<camera name="front" pos="{place}" xyaxes="{axes}" fovy="{look.fovy}"/>'


def _cube(index: int, is_fixed: bool) -> str:
    joint = "" if is_fixed else "<freejoint/>"
    group = STATIC_GROUP if is_fixed else MOVING_GROUP
    half = CUBE_HALF_SIZE
    return (
        f'<body name="cube{index}" pos="0 0 {half}">{joint}<geom name="cube{index}" type="box"'
        f' size="{half} {half} {half}" mass=".05" group="{group}" {_FINGER_CONTACT}/></body>'
    )


def _bin() -> str:
    half, wall, thin = BIN_HALF_SIZE, BIN_WALL_HEIGHT / 2, 0.004
    floor = f'<geom type="box" pos="0 0 .002" size="{half} {half} .002" rgba=".16 .12 .18 1"/>'
    sides = ((1, 0), (-1, 0), (0, 1), (0, -1))
    walls = "".join(
        f'<geom type="box" pos="{x * (half - thin)} {y * (half - thin)} {wall}"'
        f' size="{thin if x else half} {thin if y else half} {wall}" rgba=".40 .26 .46 1"/>'
        for x, y in sides
    )
    return f'<body name="bin">{floor}{walls}</body>'


def _plate() -> str:
    return (
        f'<body name="plate"><geom type="cylinder" pos="0 0 .003" size="{PLATE_RADIUS} .003"'
        ' rgba=".97 .97 .98 1"/></body>'
    )


def _hand(domain: Domain) -> str:
    """The gripper, or a human hand: only its look differs, never its dynamics."""
    if domain == "robot":
        palm = (
            f'<geom type="box" pos="0 0 .08" size=".014 .064 .012" rgba=".90 .90 .92 1"'
            f' group="{ATTACHED_GROUP}" {_NO_CONTACT}/>'
            f'<geom type="capsule" fromto="0 0 .095 0 0 .4" size=".02" rgba=".25 .26 .30 1"'
            f' group="{ATTACHED_GROUP}" {_NO_CONTACT}/>'
        )
    else:
        palm = (
            f'<geom type="ellipsoid" pos="-.02 0 .085" size=".045 .055 .024" rgba=".91 .68 .55 1"'
            f' group="{ATTACHED_GROUP}" {_NO_CONTACT}/>'
            f'<geom type="capsule" fromto="-.06 0 .11 -.40 0 .30" size=".032"'
            f' rgba=".30 .32 .36 1" group="{ATTACHED_GROUP}" {_NO_CONTACT}/>'
        )
    return f"""
  <body name="hand" pos="0 0 .2" gravcomp="1"><freejoint/>
   <inertial pos="0 0 .06" mass="1" diaginertia=".01 .01 .01"/>
   <site name="grip"/>{palm}
   <camera name="wrist" pos=".12 0 .13" xyaxes="0 1 0 -.72 0 .69" fovy="66"/>
   {_finger("left", 1, domain)}{_finger("right", -1, domain)}
  </body>"""


def _finger(name: str, side: int, domain: Domain) -> str:
    group = MOVING_GROUP if domain == "robot" else HIDDEN_GROUP
    box = (
        f'<geom type="box" pos="0 {side * 0.006} .03" size=".010 .006 .04" mass=".05"'
        f' rgba=".13 .13 .15 1" group="{group}" {_FINGER_CONTACT}/>'
    )
    skin = (
        f'<geom type="capsule" fromto="-.015 {side * 0.012} .09 0 {side * 0.010} 0" size=".011"'
        f' rgba=".91 .68 .55 1" group="{MOVING_GROUP}" mass="0" {_NO_CONTACT}/>'
    )
    return (
        f'<body name="{name}_finger" gravcomp="1"><joint name="{name}_finger" type="slide"'
        f' axis="0 {side} 0" range="0 {FINGER_OPENING}" damping="20"/>'
        f"{box}{skin if domain == 'hand' else ''}</body>"
    )

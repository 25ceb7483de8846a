"""The performance of a face over time, and the drawing of clips."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import skia
from hypothesis import given, settings
from hypothesis import strategies as st

from saber.studio.body import CLOTHES, POSES, Figure
from saber.studio.draw import frames, random_identity
from saber.studio.face import ACTION_UNITS, AU_INDEX, KINDS, Motion, intensities, perform
from saber.studio.head import HAIR, MONK, Head
from saber.studio.scenery import SCENES, Pen
from saber.studio.sheet import SHEETS, contact_sheet
from saber.studio.world import ATTRIBUTES, ClipSpec, Performance, Prosody, Words

FPS = 25


def performance(face="neutral", gaze="direct", head="still", micro="none", blinks=0.0, seed=1) -> Performance:
    return Performance(face, gaze, head, micro, blinks, seed)


def clip(number=1, style=0, scene="office", body="upright", size=112, incomplete="", identity=None, **show) -> ClipSpec:
    return ClipSpec(
        id=f"clip-{number}", split="train", seed=number, language="en", scene=scene,
        identity=identity or random_identity(f"person-{number}", number, style),
        performance=performance(seed=number, **show), body=body, speaker="", voice="neutral",
        prosody=Prosody("mid", "flat", "normal", "normal", "relaxed", "no", "no", None, number),
        words=Words("", "en", "neutral", "none", ""), incomplete=incomplete, size=size, fps=FPS,
    )  # fmt: skip


def still(spec: ClipSpec, opening: float = 0.0) -> np.ndarray:
    """The apex of an expression, head and gaze at rest, as signed numbers that can be subtracted."""
    whole, at = perform(spec.performance, 3.0, FPS), slice(FPS, FPS + 1)
    motion = Motion(whole.aus[at], np.round(whole.gaze[at]), np.zeros((1, 3), np.float32), FPS)
    return next(frames(spec, motion, np.array([opening]))).astype(int)


def apart(a: np.ndarray, b: np.ndarray, where: tuple[slice, slice] = (slice(None), slice(None))) -> float:
    """Mean difference of two pictures in levels (0..255) of a channel."""
    return float(np.abs(a[where] - b[where]).mean())


FACE = (slice(24, 72), slice(34, 78))  # eyes, brows and mouth at 112 pixels


# The performance ------------------------------------------------------------------------------------------------


def test_every_value_of_the_vocabulary_has_a_performance_and_a_drawing():
    assert set(KINDS) == set(ATTRIBUTES["face"])
    assert set(SCENES) == set(ATTRIBUTES["scene"])
    assert set(POSES) == set(ATTRIBUTES["body"])
    for gaze in ATTRIBUTES["gaze"]:
        for head in ATTRIBUTES["head"]:
            for micro in ATTRIBUTES["micro"]:
                assert len(perform(performance("joy", gaze, head, micro), 1.0, FPS)) == FPS


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**40),
    duration_s=st.floats(0.1, 30),
    fps=st.sampled_from([8, 12.5, 25, 30]),
    face=st.sampled_from(ATTRIBUTES["face"]),
    micro=st.sampled_from(ATTRIBUTES["micro"]),
)
def test_curves_have_one_row_a_frame_stay_in_range_and_repeat_with_the_seed(seed, duration_s, fps, face, micro):
    show = performance(face, "aside", "shake", micro, 18, seed)
    motion, again = perform(show, duration_s, fps), perform(show, duration_s, fps)
    count = max(1, round(duration_s * fps))
    assert motion.aus.shape == (count, len(ACTION_UNITS)) and motion.aus.dtype == np.float32
    assert motion.gaze.shape == (count, 2) and motion.head.shape == (count, 3)
    assert motion.aus.min() >= 0 and motion.aus.max() <= 1 and np.abs(motion.gaze).max() <= 1.1
    for name in ("aus", "gaze", "head"):
        assert np.array_equal(getattr(motion, name), getattr(again, name))


@pytest.mark.parametrize("face", [face for face in ATTRIBUTES["face"] if face != "neutral"])
@pytest.mark.parametrize("duration_s", [0.8, 3.0, 12.0])
def test_an_expression_comes_on_holds_and_fades(face, duration_s):
    motion = perform(performance(face, seed=5), duration_s, FPS)
    strongest = max(KINDS[face], key=KINDS[face].get)
    curve, apex = motion.au(strongest), KINDS[face][strongest]
    held = curve[round(0.4 * FPS) : round((duration_s - 0.3) * FPS)]
    assert curve[0] < 0.05, "it starts from rest"
    assert held.min() > 0.8 * apex, "it is there after 0.4 s and stays until 0.3 s before the end"
    assert curve[-1] < 0.6 * apex, "it fades at the end"
    assert np.all(np.diff(curve[: round(0.3 * min(1, duration_s) * FPS)]) >= -1e-6), "the onset only rises"


def test_a_neutral_face_moves_no_action_unit():
    assert perform(performance("neutral"), 3.0, FPS).aus.max() == 0


def test_a_polite_smile_pulls_the_lips_but_not_the_cheeks():
    polite, joy = (perform(performance(face), 3.0, FPS) for face in ("polite", "joy"))
    assert polite.au("AU12").max() > 0.6 and polite.au("AU6").max() == 0
    assert joy.au("AU12").max() > 0.8 and joy.au("AU6").max() > 0.8


def test_contempt_is_on_one_side():
    motion = perform(performance("contempt"), 3.0, FPS)
    assert motion.au("AU12L").max() > 0.8 and motion.au("AU14L").max() > 0.8
    assert motion.au("AU12").max() == 0

    def asymmetry(face: str) -> float:
        """Of what an expression changes in the face, how much differs between left and right."""
        person = replace(random_identity("even", 4, 0), hair="bald", glasses=False)
        change = np.abs(still(clip(4, identity=person, face=face)) - still(clip(4, identity=person)))[50:72].sum((0, 2))
        middle = round(float((change * np.arange(112)).sum() / change.sum())) if face == "polite" else asymmetry.middle
        asymmetry.middle = middle
        left, right = change[middle - 22 : middle].sum(), change[middle : middle + 22].sum()
        return (right - left) / (right + left)

    assert abs(asymmetry("polite")) < 0.1
    assert asymmetry("contempt") > 0.4


@pytest.mark.parametrize("micro", [micro for micro in ATTRIBUTES["micro"] if micro != "none"])
@pytest.mark.parametrize("base", ["neutral", "polite", "joy"])
def test_a_micro_expression_lasts_under_half_a_second_and_the_base_face_returns(micro, base):
    own = [name for name in KINDS[micro] if name not in KINDS[base]]
    for seed in range(12):
        motion = perform(performance(base, micro=micro, seed=seed), 3.0, 100)
        plain = perform(performance(base, seed=seed), 3.0, 100)
        leak = motion.au(max(own, key=KINDS[micro].get))
        shown = np.flatnonzero(leak > 0.01)
        assert 0.36 <= len(shown) / 100 <= 0.5
        assert np.all(np.diff(shown) == 1), "it happens once"
        assert shown[0] / 100 > 0.4 and shown[-1] / 100 < 2.7, "well inside the clip"
        assert leak.max() > 0.95 * max(KINDS[micro][name] for name in own)
        after = shown[-1] + 2
        assert np.allclose(motion.aus[after:], plain.aus[after:])
        middle = (shown[0] + shown[-1]) // 2
        held_back = [AU_INDEX[name] for name in KINDS[base] if name not in KINDS[micro]]
        assert np.all(motion.aus[middle][held_back] < 0.2), "the base face gives way"


def test_a_micro_expression_fits_into_a_short_clip_and_no_blink_hides_it():
    leak = perform(performance(micro="anger", blinks=60, seed=3), 0.8, FPS).au("AU23")
    assert leak.max() > 0.8 and leak[0] == 0 and leak[-1] < 0.5
    for seed in range(20):
        motion = perform(performance(micro="fear", blinks=60, seed=seed), 3.0, FPS)
        assert motion.au("AU43")[motion.au("AU20") > 0.99].max() < 0.05


@pytest.mark.parametrize("rate", [6, 15, 30])
def test_blinks_come_at_the_rate_and_last_a_fifth_of_a_second(rate):
    closed = np.concatenate([perform(performance(blinks=rate, seed=s), 120, 100).au("AU43") > 0.5 for s in range(4)])
    edges = np.flatnonzero(np.diff(closed.astype(int)) == 1)
    assert len(edges) == pytest.approx(rate * 8, rel=0.2)
    assert 0.08 < closed.sum() / 100 / len(edges) < 0.25


def test_no_blinks_at_rate_zero():
    assert perform(performance(blinks=0), 60, FPS).au("AU43").max() == 0


@pytest.mark.parametrize(("head", "axis"), [("nod", 1), ("shake", 0)])
def test_a_nod_swings_the_pitch_and_a_shake_the_yaw(head, axis):
    for seed in range(5):
        moving = perform(performance(head=head, seed=seed), 4.0, 100).head
        others = [other for other in (0, 1, 2) if other != axis]
        assert np.ptp(moving[:, axis]) > 20
        assert np.ptp(moving[:, others], axis=0).max() < 5
        spectrum = np.abs(np.fft.rfft(moving[:, axis] - moving[:, axis].mean()))
        assert 1.2 <= np.argmax(spectrum) / 4.0 <= 2.1, "periodic, about 1.6 times a second"
        assert np.abs(moving[[0, -1], axis]).max() < 3, "from rest and back to it"


def test_a_tilt_is_held_and_a_still_head_only_sways():
    tilt = perform(performance(head="tilt", seed=2), 4.0, FPS).head
    assert np.abs(tilt[FPS:, 2]).min() > 12
    quiet = perform(performance(head="still", seed=2), 10.0, FPS).head
    assert 0.5 < np.ptp(quiet, axis=0).max() < 5


def test_gaze_rests_where_it_should_with_small_jumps():
    down = perform(performance(gaze="down"), 6.0, FPS).gaze
    assert down[:, 1].min() > 0.8 and np.abs(down[:, 0]).max() < 0.2
    sides = {float(np.sign(perform(performance(gaze="aside", seed=s), 2.0, FPS).gaze[0, 0])) for s in range(12)}
    assert sides == {-1.0, 1.0}
    direct = perform(performance(gaze="direct"), 6.0, FPS).gaze
    assert np.abs(direct).max() < 0.2 and len(np.unique(direct, axis=0)) >= 4


@pytest.mark.parametrize("field", ["face", "gaze", "head", "micro"])
def test_an_unknown_value_is_an_error_that_names_it(field):
    with pytest.raises(ValueError, match="wobbly"):
        perform(performance(**{field: "wobbly"}), 1.0, FPS)


def test_a_clip_without_duration_is_an_error():
    with pytest.raises(ValueError, match="duration_s is 0"):
        perform(performance(), 0, FPS)


# The drawing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [0, 1])
@pytest.mark.parametrize("size", [112, 224])
def test_frames_are_square_pictures_of_their_own_and_the_same_twice(style, size):
    spec = clip(7, style, "cafe", "palms", size, face="joy", head="nod", blinks=20.0, micro="fear")
    motion = perform(spec.performance, 0.6, FPS)
    mouth = np.linspace(0, 1, len(motion))
    first, second = list(frames(spec, motion, mouth)), list(frames(spec, motion, mouth))
    assert len(first) == 15
    for a, b in zip(first, second, strict=True):
        assert a.shape == (size, size, 3) and a.dtype == np.uint8 and a.flags.c_contiguous
        assert a.tobytes() == b.tobytes()
    assert not np.array_equal(first[0], first[-1])


@pytest.mark.parametrize("style", [0, 1])
def test_faces_differ_from_each_other_more_than_one_face_does_over_time(style):
    for number in range(3, 9):
        pictures = {face: still(clip(number, style, face=face)) for face in ATTRIBUTES["face"]}
        # The noise within one face: the same person with another seed, so its strength drifts.
        again = {face: still(replace(clip(number, style), performance=performance(face, seed=number + 99)))
                 for face in pictures}  # fmt: skip
        noise = {face: apart(pictures[face], again[face], FACE) for face in pictures}
        names = list(pictures)
        for index, a in enumerate(names):
            for b in names[index + 1 :]:
                difference, drift = apart(pictures[a], pictures[b], FACE), max(noise[a], noise[b])
                assert difference > max(1.5, 1.3 * drift), f"{a}, {b}, person {number}: {difference:.2f} {drift:.2f}"


@pytest.mark.parametrize("style", [0, 1])
def test_faces_are_told_apart_across_people(style):
    """What an expression changes in one face resembles what it changes in others more than any other expression's
    change does: nearest mean of the other people, for nearly every face."""
    people = range(20, 32)
    emotions = [face for face in ATTRIBUTES["face"] if face != "neutral"]
    changes = np.array(
        [
            [_coarse(still(clip(n, style, face=face)) - still(clip(n, style, face="neutral"))) for face in emotions]
            for n in people
        ]
    )
    changes /= np.linalg.norm(changes, axis=-1, keepdims=True)
    right = 0
    for person in range(len(changes)):
        means = np.delete(changes, person, axis=0).mean(0)
        means /= np.linalg.norm(means, axis=-1, keepdims=True)
        right += int((np.argmax(changes[person] @ means.T, axis=1) == np.arange(len(emotions))).sum())
    assert right / changes[..., 0].size > 0.85


def _coarse(change: np.ndarray) -> np.ndarray:
    """The size of a change on a grid of 4 pixels over the face."""
    blocks = np.abs(change).mean(-1)[16:80, 24:88].reshape(16, 4, 16, 4)
    return blocks.mean((1, 3)).ravel()


@pytest.mark.parametrize("what", ["body", "scene"])
@pytest.mark.parametrize("style", [0, 1])
def test_bodies_and_scenes_differ(what, style):
    pictures = [still(clip(3, style, **{what: value})) for value in ATTRIBUTES[what]]
    where = (slice(60 if what == "body" else 0, 112), slice(None))  # a body shows in the lower half
    for index, a in enumerate(pictures):
        for other in range(index + 1, len(pictures)):
            assert apart(a, pictures[other], where) > 5, f"{ATTRIBUTES[what][index]} and {ATTRIBUTES[what][other]}"


def test_one_scene_varies_with_the_seed_of_the_clip():
    empty = [still(clip(number, incomplete="nobody")) for number in range(5)]
    assert min(apart(a, b) for i, a in enumerate(empty) for b in empty[i + 1 :]) > 1


@pytest.mark.parametrize("movement", [dict(gaze="down"), dict(gaze="aside")])
def test_gaze_is_visible_in_the_eyes(movement):
    for style in (0, 1):
        assert apart(still(clip(4, style)), still(clip(4, style, **movement)), (slice(34, 50), slice(34, 78))) > 2


def test_head_turn_nod_and_tilt_move_the_face_inside_its_outline():
    spec = clip(4)

    def turned(yaw: float = 0, pitch: float = 0, roll: float = 0, gaze: float = 0) -> np.ndarray:
        motion = Motion(np.zeros((1, len(ACTION_UNITS)), np.float32), np.array([[0, gaze]], np.float32),
                        np.array([[yaw, pitch, roll]], np.float32), FPS)  # fmt: skip
        return next(frames(spec, motion, np.ones(1))).astype(int)

    def mouth(picture: np.ndarray) -> np.ndarray:
        """Where the dark red inside of the open mouth is, (down, right) in pixels."""
        red, green = picture[40:85, 25:87, 0], picture[40:85, 25:87, 1]
        return np.argwhere((red - green > 40) & (red < 90)).mean(0)

    # The whole head shifts by 3 pixels or less; the features go further, as they do on something round.
    assert mouth(turned(yaw=24))[1] - mouth(turned(yaw=-24))[1] > 14
    assert mouth(turned(pitch=13))[0] - mouth(turned(pitch=-13))[0] > 8
    assert apart(turned(roll=15), turned(roll=-15), FACE) > 8
    assert apart(turned(gaze=-1), turned(), (slice(34, 50), slice(34, 78))) > 1.5, "the iris moves, not only the lid"


@pytest.mark.parametrize("face", ATTRIBUTES["face"])
def test_the_voice_opens_the_mouth_of_every_face(face):
    for style in (0, 1):
        shut, open_ = (still(clip(6, style, face=face), opening) for opening in (0.0, 1.0))
        assert apart(shut, open_, (slice(54, 74), slice(40, 72))) > 4


def test_bodies_move_a_little():
    for body in ATTRIBUTES["body"]:
        spec = clip(5, body=body)
        rest = Motion(np.zeros((50, len(ACTION_UNITS)), np.float32), np.zeros((50, 2), np.float32),
                      np.zeros((50, 3), np.float32), FPS)  # fmt: skip
        pictures = np.array(list(frames(spec, rest, np.zeros(50))), int)
        change = np.abs(pictures[1:] - pictures[0])
        assert 0.1 < change.mean((1, 2, 3)).max() < 15, body
        figure = Figure(spec.identity, body, (200, 160, 130), (150, 110, 90), np.random.default_rng(0))
        still_arms, moved_arms = (_drawn(figure, moment) for moment in (0.0, 0.5 / figure.pose.sway[2]))
        assert apart(still_arms, moved_arms) > 0.05, f"the arms of {body} move against the chest"


def _drawn(figure: Figure, time_s: float) -> np.ndarray:
    """The arms alone, with the movement of the chest taken out."""
    pixels = np.zeros((112, 112, 4), np.uint8)
    canvas = skia.Surface(pixels, colorType=skia.kRGBA_8888_ColorType).getCanvas()
    canvas.scale(1.12, 1.12)
    canvas.translate(0, -figure.offset(time_s))
    figure.draw_arms(canvas, time_s)
    return pixels[..., :3].astype(int)


def test_nobody_is_an_empty_scene():
    spec = clip(2, incomplete="nobody")
    motion = perform(spec.performance, 0.2, FPS)
    empty = list(frames(spec, motion, np.ones(len(motion))))
    assert len(empty) == 5 and all(np.array_equal(empty[0], picture) for picture in empty)
    other_person = replace(spec, identity=random_identity("other", 77, 0), body="fists")
    assert np.array_equal(next(frames(other_person, motion, np.ones(len(motion)))), empty[0])
    assert apart(still(clip(2)), empty[0].astype(int), FACE) > 20


def test_the_second_style_is_visibly_another_drawing():
    for number in range(4):
        a, b = still(clip(number, 0)), still(clip(number, 1))
        assert apart(a, b) > 15
        # Ink lines: far more sharp edges.
        edges = [np.abs(np.diff(picture.mean(-1), axis=1)).mean() for picture in (a, b)]
        assert edges[1] > 1.15 * edges[0]
        soft, ink = (Head(random_identity("same", number, style)) for style in (0, 1))
        assert ink.w < 0.92 * soft.w and ink.jaw < 0.92 * soft.jaw, "other proportions"
    paper = Pen(skia.Surface(4, 4).getCanvas(), 1)
    assert paper.tone((100, 100, 100)) == paper.tone((104, 104, 104)) != (100, 100, 100), "few, muted tones"


@pytest.mark.parametrize("style", [0, 1])
def test_every_skin_hair_age_and_accessory_draws_and_skins_get_darker(style):
    base = replace(random_identity("base", 3, style), hair="bald", beard=False, glasses=False)
    cheeks = []
    for skin in range(len(MONK)):
        picture = still(clip(3, identity=replace(base, skin=skin)))
        cheeks.append(np.median(picture[44:62, 44:68].mean(-1)))
        for face in ("anger", "joy"):
            change = apart(still(clip(3, identity=replace(base, skin=skin), face=face)), picture, FACE)
            assert change > 3, f"{face} shows on skin {skin}"
    assert all(b <= a + 4 for a, b in zip(cheeks, cheeks[1:], strict=False)) and cheeks[0] - cheeks[-1] > 90
    seen = set()
    for sex in ("female", "male"):
        for age in ("young", "adult", "older"):
            for hair in ("short", "long", "bun", "curly", "bald"):
                person = replace(base, sex=sex, age=age, hair=hair, glasses=age == "adult", beard=sex == "male")
                seen.add(still(clip(3, identity=person)).tobytes())
    for color in HAIR:
        seen.add(still(clip(3, identity=replace(base, hair="long", hair_color=color))).tobytes())
    for cloth in range(len(CLOTHES)):
        seen.add(still(clip(3, identity=replace(base, clothes=cloth))).tobytes())
    assert len(seen) >= 30 + 5 + 12 - 2


def test_glasses_and_beard_leave_the_expression_visible():
    plain = replace(random_identity("base", 8, 0), sex="male", hair="short", glasses=False, beard=False, skin=4)
    covered = replace(plain, glasses=True, beard=True)
    for face in ATTRIBUTES["face"]:
        if face == "neutral":
            continue
        change = [apart(still(clip(8, identity=who, face=face)), still(clip(8, identity=who)), FACE)
                  for who in (plain, covered)]  # fmt: skip
        assert change[1] > 0.7 * change[0], face


def test_identities_repeat_with_the_seed_and_are_balanced():
    assert random_identity("a", 12, 0) == random_identity("a", 12, 0)
    people = [random_identity(str(n), n, 0) for n in range(600)]
    for field, values, least in (("sex", ("female", "male"), 0.4), ("age", ("young", "adult", "older"), 0.25),
                                 ("skin", range(10), 0.06), ("clothes", range(12), 0.05),
                                 ("hair", ("short", "long", "bun", "curly", "bald"), 0.07),
                                 ("hair_color", tuple(HAIR), 0.1), ("glasses", (True, False), 0.2)):  # fmt: skip
        for value in values:
            assert sum(getattr(person, field) == value for person in people) / 600 >= least, (field, value)
    assert not any(person.beard and person.sex == "female" for person in people)


def test_mouth_and_motion_must_agree_and_unknown_values_are_named():
    spec = clip(1)
    motion = perform(spec.performance, 1.0, FPS)
    with pytest.raises(ValueError, match="clip-1: mouth has shape"):
        next(frames(spec, motion, np.zeros(3)))
    with pytest.raises(ValueError, match="moonbase"):
        next(frames(replace(spec, scene="moonbase"), motion, np.zeros(len(motion))))
    with pytest.raises(ValueError, match="cartwheel"):
        next(frames(replace(spec, body="cartwheel"), motion, np.zeros(len(motion))))
    with pytest.raises(ValueError, match="grin"):
        intensities("grin")


def test_four_hundred_frames_a_second_at_112_pixels():
    spec = clip(1, body="palms", scene="cafe", face="joy")
    motion = perform(spec.performance, 8.0, FPS)
    start = time.process_time()
    count = sum(1 for _ in frames(spec, motion, np.full(len(motion), 0.4)))
    assert count / (time.process_time() - start) > 400


@pytest.mark.parametrize("what", SHEETS)
def test_contact_sheets_are_written(what, tmp_path):
    sheet = contact_sheet(tmp_path / "sheet.png", what, style=1, people=2)
    assert (tmp_path / "sheet.png").stat().st_size > 10_000 and sheet.width > 800
    with pytest.raises(ValueError, match="teapots"):
        contact_sheet(tmp_path / "no.png", "teapots")


def test_every_action_unit_of_a_prototype_is_known_and_moves_the_drawing():
    spec = clip(4)
    rest = np.zeros((1, len(ACTION_UNITS)), np.float32)

    def posed(aus: np.ndarray) -> np.ndarray:
        motion = Motion(aus, np.zeros((1, 2), np.float32), np.zeros((1, 3), np.float32), FPS)
        return next(frames(spec, motion, np.zeros(1))).astype(int)

    for name, index in AU_INDEX.items():
        moved = rest.copy()
        moved[0, index] = 1.0
        assert apart(posed(moved), posed(rest), FACE) > 0.15, name

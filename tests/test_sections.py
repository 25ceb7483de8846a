"""The SED text: what models emit is read into the right sections, at any split, without loss and without delay."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from saber.schema import DIMENSIONS, RELATIONS, SECTIONS, Annotation
from saber.sections import (
    CLOSE_TAGS,
    NOTES,
    OPEN_TAGS,
    TITLES,
    Parser,
    normalise,
    parse,
    read_relation,
    render,
)

RECORD = {
    "video_desc": "Two people stand in a kitchen.",
    "audio_desc": {"speech_content": "Why do all your mugs have numbers? <laugh>", "acoustic_feat": "Moderate pitch."},
    "facial_exp_desc": "Eyebrows slightly furrowed.",
    "body_lang_desc": "He tilts the mug with both hands.",
    "sentiment_analysis": "Neutral and inquisitive.",
}
READ = {
    "scene": "Two people stand in a kitchen.",
    "face": "Eyebrows slightly furrowed.",
    "body": "He tilts the mug with both hands.",
    "speech": "Why do all your mugs have numbers? <laugh>",
    "prosody": "Moderate pitch.",
    "reasoning": "Neutral and inquisitive.",
}
RECORD_ZH = {
    "audio_desc": {
        "speech_content": "子敬果真是第一善人。我...我拜谢了。",
        "acoustic_feat": "男声，洪亮，“我...我”处有停顿。",
    },
    "video_desc": "特写一位蓄须男性。",
    "facial_exp_desc": "温和的微笑。",
    "sentiment_analysis": "诚挚的感激。",
    "body_lang_desc": "双手作揖。",
}
READ_ZH = {
    "scene": "特写一位蓄须男性。",
    "face": "温和的微笑。",
    "body": "双手作揖。",
    "speech": "子敬果真是第一善人。我...我拜谢了。",
    "prosody": "男声，洪亮，“我...我”处有停顿。",
    "reasoning": "诚挚的感激。",
}

#: name -> (what a model wrote, the sections that are read from it, its notes)
EXAMPLES: dict[str, tuple[str, dict, tuple[str, ...]]] = {
    # --- our tags
    "tags, whole": (
        "<scene>A kitchen.</scene>\n<face>A smile.</face>\n<body>Arms crossed.</body>\n"
        "<speech>Fine, thanks.</speech>\n"
        "<prosody>Flat and cold.</prosody>\n<reasoning>She is upset.</reasoning>\n"
        "<relation>conflict</relation>\n"
        "<emotion>suppressed anger, politeness</emotion>",
        {
            "scene": "A kitchen.",
            "face": "A smile.",
            "body": "Arms crossed.",
            "speech": "Fine, thanks.",
            "prosody": "Flat and cold.",
            "reasoning": "She is upset.",
            "relation": "conflict",
            "emotion": ("suppressed anger", "politeness"),
        },
        (),
    ),
    "tags, Chinese": (
        "<scene>厨房里。</scene>\n<speech><sigh>我没事。</speech>\n<relation>不一致</relation>\n"
        "<emotion>悲伤、失望；疲惫</emotion>",
        {
            "scene": "厨房里。",
            "speech": "<sigh>我没事。",
            "relation": "conflict",
            "emotion": ("悲伤", "失望", "疲惫"),
        },
        (),
    ),
    "tags, sound events are content": (
        "<speech><laugh> Oh <gasp>really</gasp>? a < b <b>no</b> <3</speech>",
        {"speech": "<laugh> Oh <gasp>really</gasp>? a < b <b>no</b> <3"},
        (),
    ),
    "tags, closing tags missing": (
        "<scene>A park.\n<face>Tears.\n<prosody>Trembling.",
        {"scene": "A park.", "face": "Tears.", "prosody": "Trembling."},
        ("cut_off",),
    ),
    "tags, unknown order and a section twice": (
        "<prosody>Loud.</prosody><scene>A street.</scene><prosody>Fast.</prosody><emotion>joy</emotion>"
        "<emotion>pride</emotion>",
        {"prosody": "Loud.\nFast.", "scene": "A street.", "emotion": ("joy", "pride")},
        (),
    ),
    "tags, wrong closing tag and upper case": (
        "<Scene>A cafe.</face><FACE>Neutral.</FACE></body>",
        {"scene": "A cafe.", "face": "Neutral."},
        (),
    ),
    "tags, cut off inside a closing tag": ("<scene>A cafe.</sce", {"scene": "A cafe."}, ("cut_off",)),
    "tags, text around them": (
        "Here is my analysis:\n<scene>A cafe.</scene>\nHope this helps!",
        {"scene": "A cafe.", "reasoning": "Here is my analysis:\nHope this helps!"},
        ("stray_text",),
    ),
    "tags, headings and JSON inside are content": (
        '<reasoning>Face: a smile.\n## Scene\n{"video_desc": "x"}</reasoning>',
        {"reasoning": 'Face: a smile.\n## Scene\n{"video_desc": "x"}'},
        (),
    ),
    "tags, escaped": (
        r"<speech>He wrote \<scene> and \\</face> and \n and \<laugh>.</speech>",
        {"speech": r"He wrote <scene> and \</face> and \n and \<laugh>."},
        (),
    ),
    "tags in a code fence": ("```xml\n<scene>A cafe.</scene>\n```", {"scene": "A cafe."}, ()),
    "tags, think block of a reasoning model": (
        "<think>I look at the face first.</think>\n<face>Calm.</face>",
        {"face": "Calm.", "reasoning": "<think>I look at the face first.</think>"},
        ("stray_text",),
    ),
    "tags, relation in words": (
        "<reasoning>Sarcasm.</reasoning><relation>Conflict: she smiles but sounds hostile.</relation>",
        {"reasoning": "Sarcasm.\nConflict: she smiles but sounds hostile.", "relation": "conflict"},
        ("relation_as_text",),
    ),
    "tags, relation that cannot be read": (
        "<reasoning>Sarcasm.</reasoning><relation>hard to say</relation>",
        {"reasoning": "Sarcasm.\nhard to say", "relation": ""},
        ("unreadable_relation",),
    ),
    # --- the published JSON
    "json, compact": (json.dumps(RECORD), READ, ()),
    "json, Chinese, indented, published key order": (json.dumps(RECORD_ZH, ensure_ascii=False, indent=4), READ_ZH, ()),
    "json, Chinese as escapes": (json.dumps(RECORD_ZH), READ_ZH, ()),
    "json in a fence": ("```json\n" + json.dumps(RECORD, indent=2) + "\n```", READ, ()),
    "json in a bare fence, no line break": ("```" + json.dumps(RECORD) + "```", READ, ()),
    "json with prose around": (
        "Sure! Here is the analysis:\n\n```json\n" + json.dumps(RECORD, indent=2) + "\n```\nLet me know.",
        {**READ, "reasoning": "Sure! Here is the analysis:\nNeutral and inquisitive.\nLet me know."},
        ("stray_text",),
    ),
    "json after prose on one line": (
        'Result: {"video_desc": "A park.", "facial_exp_desc": "Calm."}',
        {"scene": "A park.", "face": "Calm.", "reasoning": "Result:"},
        ("stray_text",),
    ),
    "json cut off in a value": (
        '{"audio_desc": {"speech_content": "Hello", "acoustic_feat": "A warm, ste',
        {"speech": "Hello", "prosody": "A warm, ste"},
        ("cut_off",),
    ),
    "json cut off in a key": ('{"video_desc": "A park.", "facial_e', {"scene": "A park."}, ("cut_off",)),
    "json cut off in an escape": ('{"video_desc": "A park \\ud83d', {"scene": "A park \ufffd"}, ("cut_off",)),
    "json cut off in the first key": ('```json\n{"video_d', {}, ("empty", "cut_off")),
    "json, escapes": (
        r'{"video_desc": "\ud83d\ude00 \u6587\t\"quoted\" C:\\dir \/ line\nnext \q"}',
        {"scene": '😀 文\t"quoted" C:\\dir / line\nnext \\q'},
        (),
    ),
    "json, quotation marks not escaped": (
        '{"audio_desc": {"speech_content": "He said "fine", then "no" and left.", "acoustic_feat": "Low."}, '
        '"video_desc": "A sign: "EXIT""}',
        {"speech": 'He said "fine", then "no" and left.', "prosody": "Low.", "scene": 'A sign: "EXIT"'},
        (),
    ),
    "json, trailing comma of the published prompt": (
        '{\n "audio_desc": {\n  "speech_content": "Hi",\n  "acoustic_feat": "Low",\n },\n "video_desc": "A park"\n}',
        {"speech": "Hi", "prosody": "Low", "scene": "A park"},
        (),
    ),
    "json, comma missing": (
        '{"video_desc": "A park"\n "facial_exp_desc": "Calm"}',
        {"scene": "A park", "face": "Calm"},
        (),
    ),
    "json, line breaks inside a string": (
        '{"video_desc": "A park.\nTrees.", "body_lang_desc": "Still"}',
        {"scene": "A park.\nTrees.", "body": "Still"},
        (),
    ),
    "json, unknown keys": (
        '{"video_desc": "A park", "confidence": 0.9, "speaker": {"age": "adult", "count": 1}, "note": null}',
        {"scene": "A park", "reasoning": "confidence: 0.9\nspeaker: age: adult\nspeaker: count: 1"},
        ("unknown_key",),
    ),
    "json, objects and lists under known keys": (
        '{"facial_exp_desc": {"eyes": "narrow", "mouth": "tight"}, "body_lang_desc": ["leans back", "arms crossed"]}',
        {"face": "eyes: narrow\nmouth: tight", "body": "leans back\narms crossed"},
        ("unknown_key",),
    ),
    "json, verdict and other types": (
        '{"video_desc": null, "facial_exp_desc": "Smile", "relation": "inconsistent", "emotion": ["joy", "irony"]}',
        {"face": "Smile", "relation": "conflict", "emotion": ("joy", "irony")},
        (),
    ),
    "json, audio_desc as a string": ('{"audio_desc": "A calm voice."}', {"prosody": "A calm voice."}, ()),
    "json, a key that means something else inside the audio": (
        '{"audio_desc": {"transcript": "Hi", "background": "soft music"}}',
        {"speech": "Hi", "prosody": "background: soft music"},
        ("unknown_key",),
    ),
    "json, a wrapper object and a list": (
        '[{"result": {"video_desc": "A park", "audio_desc": {"speech_content": "Hi"}}}]',
        {"scene": "A park", "speech": "Hi"},
        (),
    ),
    "json with other names for the keys": (
        '{"Scene": "A park", "facialExpression": "Smile", "body_language": "Still", "transcript": "Hi", '
        '"tone": "Warm", "overall_emotional_state": "Happy"}',
        {
            "scene": "A park",
            "face": "Smile",
            "body": "Still",
            "speech": "Hi",
            "prosody": "Warm",
            "reasoning": "Happy",
        },
        (),
    ),
    "json without its brace": (
        '"video_desc": "A park",\n"facial_exp_desc": "Calm"',
        {"scene": "A park", "face": "Calm"},
        ("cut_off",),
    ),
    "json, broken": (
        '{"video_desc": "A park", "count": 2, see: below}',
        {"scene": "A park", "reasoning": "count: 2\nsee: below}"},
        ("broken_json", "stray_text", "unknown_key"),
    ),
    "json, our tags in a value are content": (
        '{"audio_desc": {"speech_content": "<scene> <laugh> hi"}}',
        {"speech": "<scene> <laugh> hi"},
        (),
    ),
    # --- prose under headings
    "numbered, published order in English": (
        "1. Scene and background: A living room at night.\n"
        "2. Audio analysis: A woman speaks softly.\n"
        "3. Facial expressions and body language: She looks down; her shoulders drop.\n"
        "4. Overall emotional state: Sadness, with some resignation.",
        {
            "scene": "A living room at night.",
            "prosody": "A woman speaks softly.",
            "face": "She looks down; her shoulders drop.",
            "reasoning": "Sadness, with some resignation.",
        },
        ("combined_heading",),
    ),
    "markdown headings": (
        "# Video Description\nAn office.\n\n## Facial expression\nA tight smile.\n\n"
        "## Body Language\nArms crossed.\n\n"
        "## Comprehensive Sentiment Analysis\nIrritated.\n",
        {"scene": "An office.", "face": "A tight smile.", "body": "Arms crossed.", "reasoning": "Irritated."},
        (),
    ),
    "markdown, numbered and bold, with rules": (
        "### 1. **Scene**\n\nAn office.\n\n---\n\n### 2. **Acoustic Features**:\nLoud.\n\n"
        "***\n### 3. **Conclusion**\n"
        "Anger.",
        {"scene": "An office.", "prosody": "Loud.", "reasoning": "Anger."},
        (),
    ),
    "bold, colon inside and outside": (
        "**Scene:** A street.\n**Facial Expression**: Raised brows.\n**Body Language**\nShe steps back.\n"
        "__Speech Content:__ No way!",
        {"scene": "A street.", "face": "Raised brows.", "body": "She steps back.", "speech": "No way!"},
        (),
    ),
    "bulleted": (
        "- Scene: A street.\n* **Speech content:** No way!\n• Tone – rising\n+ Reasoning: Surprise.",
        {"scene": "A street.", "speech": "No way!", "prosody": "rising", "reasoning": "Surprise."},
        (),
    ),
    "plain with a colon": (
        "Facial expression: A frown.\nBody language: Still.\nTranscript: I see.\n"
        "Tone of voice: Flat.\nConclusion: Bored.",
        {"face": "A frown.", "body": "Still.", "speech": "I see.", "prosody": "Flat.", "reasoning": "Bored."},
        (),
    ),
    "plain on lines of their own": (
        "Scene\nA beach.\n\nFacial Expressions\nSquinting.\n\nSummary\nRelaxed.",
        {"scene": "A beach.", "face": "Squinting.", "reasoning": "Relaxed."},
        (),
    ),
    "audio with sub-headings": (
        '1. Video Description: A hall.\n2. Audio Description:\n    *   Speech Content: "Thank you all."\n'
        "    *   Acoustic Features: Steady, warm.\n3. Facial Expression Description: Smiling.",
        {"scene": "A hall.", "speech": '"Thank you all."', "prosody": "Steady, warm.", "face": "Smiling."},
        (),
    ),
    "sub-headings of the same dimension stay": (
        "## Body language\n- **Posture**: upright\n- **Gestures**: none\n## Audio\n- Pitch: low\n- Tone: calm",
        {"body": "- **Posture**: upright\n- **Gestures**: none", "prosody": "- Pitch: low\n- Tone: calm"},
        (),
    ),
    "evidence listed again in the conclusion stays there": (
        "1. Facial expression: A smile.\n2. Tone: Cold.\n3. Conclusion: Sarcasm.\n"
        "   - Facial expression: it does not "
        "reach the eyes\n   - Tone: sharp",
        {
            "face": "A smile.",
            "prosody": "Cold.",
            "reasoning": "Sarcasm.\n   - Facial expression: it does not reach the eyes\n   - Tone: sharp",
        },
        (),
    ),
    "ordinary sentences are content": (
        "**Scene**\nThe scene is a kitchen: bright and tidy.\nFace to face, they talk.\n"
        "In the background, music.\n"
        "**Face**\nThe face shows: joy.\nExpression of joy (mild).",
        {
            "scene": "The scene is a kitchen: bright and tidy.\nFace to face, they talk.\nIn the background, music.",
            "face": "The face shows: joy.\nExpression of joy (mild).",
        },
        (),
    ),
    "words in brackets": (
        "Audio (speech content): 你好\nFace (facial expression): calm\nVoice (in Mandarin): soft",
        {"speech": "你好", "face": "calm", "prosody": "(in Mandarin) soft"},
        (),
    ),
    "emotion and relation under headings": (
        "**Emotion labels:** *contempt*, amusement.\n**Consistency:** Inconsistent.\n**Reasoning:** She mocks him.",
        {"emotion": ("contempt", "amusement"), "relation": "conflict", "reasoning": "She mocks him."},
        (),
    ),
    "emotion as a sentence": (
        "Scene: A bar.\nEmotion: The speaker seems to be rather happy about all of it.",
        {"scene": "A bar.", "reasoning": "The speaker seems to be rather happy about all of it."},
        ("emotion_as_text",),
    ),
    "lettered, roman and pictograms": (
        "A. Scene: A bar.\nII. Facial expression: Bored.\nc) Tone: Flat.\n"
        "🎭 **Body language**: Slumped.\n"
        "1️⃣ Summary: Bored.",
        {"scene": "A bar.", "face": "Bored.", "prosody": "Flat.", "body": "Slumped.", "reasoning": "Bored."},
        (),
    ),
    "windows line ends": (
        "Scene:\r\nA bar.\r\n\r\nFace:\r\nBored.\r\n",
        {"scene": "A bar.", "face": "Bored."},
        (),
    ),
    "Chinese, numbered": (
        "1. 场景及其背景信息：厨房，光线明亮。\n2. 音频分析：语气平静。\n3. 面部表情和肢体语言：微笑，双手交叉。\n"
        "4. 整体情绪状态：愉快。",
        {"scene": "厨房，光线明亮。", "prosody": "语气平静。", "face": "微笑，双手交叉。", "reasoning": "愉快。"},
        ("combined_heading",),
    ),
    "Chinese, Chinese numerals and brackets": (
        "一、视频画面描述\n厨房。\n（二）面部表情\n皱眉。\n（3）肢体动作：低头\n四、综合情感分析\n悲伤。",
        {"scene": "厨房。", "face": "皱眉。", "body": "低头", "reasoning": "悲伤。"},
        (),
    ),
    "Chinese, bold and lenticular brackets": (
        "**场景**：街道。\n【面部表情】惊讶\n【语音内容】：真的吗？\n## 声学特征\n音调升高。\n"
        "**情感标签：** 惊讶、喜悦",
        {
            "scene": "街道。",
            "face": "惊讶",
            "speech": "真的吗？",
            "prosody": "音调升高。",
            "emotion": ("惊讶", "喜悦"),
        },
        (),
    ),
    "Chinese, plain, audio before the face": (
        "背景：教室。\n说话内容：老师好。\n语音语调：轻快。\n面部表情：微笑。\n肢体语言：挥手。\n一致性：一致\n结论：开心。",
        {
            "scene": "教室。",
            "speech": "老师好。",
            "prosody": "轻快。",
            "face": "微笑。",
            "body": "挥手。",
            "relation": "consistent",
            "reasoning": "开心。",
        },
        (),
    ),
    "Chinese sentences are content": (
        "场景：\n场景中有两个人。\n一个男人站着。\n面部表情自然，目光直视镜头：很专注。",
        {"scene": "场景中有两个人。\n一个男人站着。\n面部表情自然，目光直视镜头：很专注。"},
        (),
    ),
    "Chinese, published annotation prompt followed as a list": (
        "1.  视频描述: 特写。\n2.  音频描述:\n    *   语音内容: 谢谢<laugh>。\n    *   声学特征: 洪亮。\n"
        "3.  面部表情描述: 微笑。\n"
        "4.  肢体动作描述: 作揖。\n5.  综合情感分析: 感激。",
        {
            "scene": "特写。",
            "speech": "谢谢<laugh>。",
            "prosody": "洪亮。",
            "face": "微笑。",
            "body": "作揖。",
            "reasoning": "感激。",
        },
        (),
    ),
    # --- no structure
    "free prose": (
        "The scene shows a woman in a kitchen. She smiles, but her voice is cold: she is upset.",
        {"reasoning": "The scene shows a woman in a kitchen. She smiles, but her voice is cold: she is upset."},
        ("no_structure",),
    ),
    "free prose, Chinese": (
        "视频中，一位女士在厨房里说话。\n她看起来很难过。",
        {"reasoning": "视频中，一位女士在厨房里说话。\n她看起来很难过。"},
        ("no_structure",),
    ),
    "a refusal": (
        "I'm sorry, I can't help with that.",
        {"reasoning": "I'm sorry, I can't help with that."},
        ("no_structure",),
    ),
    "one word": ("happy", {"reasoning": "happy"}, ("no_structure",)),
    "braces and quotes that are no JSON": (
        '{scene} and {"a", "b"} and "video" [1] `x`',
        {"reasoning": '{scene} and {"a", "b"} and "video" [1] `x`'},
        ("no_structure",),
    ),
    "nothing": ("", {}, ("empty",)),
    "blank": (" \n\t\n", {}, ("empty",)),
}
TEXTS = [text for text, _, _ in EXAMPLES.values()]


def read(pieces):
    """(text per section, events, parsed) of a text given in pieces."""
    parser = Parser()
    events = [event for piece in pieces for event in parser.feed(piece)] + parser.close()
    sections = dict.fromkeys(SECTIONS, "")
    for event in events:
        sections[event.section] += event.text
    return sections, events, parser.result()


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_models_emit_is_read_into_its_sections(name):
    text, expected, notes = EXAMPLES[name]
    parsed = parse(text)
    assert parsed.annotation == Annotation(**expected)
    assert sorted(parsed.notes) == sorted(notes)
    assert parsed.unstructured == ("no_structure" in notes)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_split_point_gives_the_same_result_and_loses_nothing(name):
    text = EXAMPLES[name][0]
    sections, _, whole = read([text])
    for i in range(len(text) + 1):
        split_sections, events, split = read([text[:i], text[i:]])
        assert (split_sections, split) == (sections, whole), i
        assert "".join(event.raw for event in events) == text
    one_by_one, events, parsed = read(text)
    assert (one_by_one, parsed) == (sections, whole)
    assert "".join(event.raw for event in events) == text


TAGGED = render(Annotation("A < kitchen \\", "B", "C", "D <laugh>", "E", "F", "conflict", ("joy", "awe")))


@pytest.mark.parametrize(
    "text",
    [TAGGED, json.dumps(RECORD), json.dumps(RECORD_ZH, indent=4), "```json\n" + json.dumps(RECORD, indent=2) + "\n```"],
)
def test_cut_off_anywhere_every_section_is_a_beginning_of_the_whole_one(text):
    whole = parse(text).annotation
    for i in range(1 + min(text.find(mark) for mark in ">{" if mark in text), len(text)):
        got = parse(text[:i]).annotation
        for section in DIMENSIONS:
            assert getattr(whole, section).startswith(getattr(got, section)), (i, section)


@pytest.mark.parametrize("name", EXAMPLES)
def test_cut_off_anywhere_no_example_raises_or_loses_a_character(name):
    text = EXAMPLES[name][0]
    for i in range(len(text)):
        _, events, parsed = read([text[:i]])
        assert "".join(event.raw for event in events) == text[:i]
        assert set(parsed.notes) <= set(NOTES)


def test_the_text_of_all_events_of_a_section_is_the_section():
    for text in TEXTS:
        sections, events, parsed = read(text)
        assert all(event.section in SECTIONS for event in events)
        for section in (*DIMENSIONS,):
            whole = getattr(parsed.annotation, section)
            if section == "reasoning":  # an unreadable verdict is added at its end
                assert whole.startswith(sections[section])
            else:
                assert whole == sections[section]


# --- no delay


def shown(pieces):
    parser = Parser()
    return "".join(event.text for piece in pieces for event in parser.feed(piece))


@pytest.mark.parametrize(
    ("fed", "out"),
    [
        ("<scene>A kit", "A kit"),
        ("<scene>A kit<", "A kit"),
        ("<scene>A <laugh", "A <laugh"),
        ("<scene>A kit</scen", "A kit"),
        ("<scene>A kit</scent", "A kit</scent"),
        ("<scene>a\nFace: b", "a\nFace: b"),
        ('{"video_desc": "A kit', "A kit"),
        ('{"video_desc": "A kit\\', "A kit"),
        ('{"video_desc": "A kit\\n\\u6587b', "A kit\n文b"),
        ('{"video_desc": "He said "fi', 'He said "fi'),
        ('{"confidence": 0.9', "confidence: 0.9"),
        ("Scene: A kit", "A kit"),
        ("## Scene\nA kit", "A kit"),
        ("面部表情：微", "微"),
        ("【面部表情】微", "微"),
        ("The scene", ""),
        ("The scene i", ""),
        ("The scene is", "The scene is"),
        ("the speaker and " * 5, ("the speaker and " * 5).strip()),  # too long for a title
        ("Hello wor", "Hello wor"),
        ("一个男", "一个男"),
    ],
)
def test_text_is_passed_on_as_soon_as_it_can_be_nothing_else(fed, out):
    assert shown(fed) == out
    assert shown([fed]) == out


@given(st.text(alphabet="abc xyz,.é文", min_size=1), st.sampled_from(["<scene>", '{"video_desc": "', "**Scene:** "]))
def test_ordinary_content_is_never_held_back(content, opening):
    assert shown(opening + content) == content.strip()


# --- inverses

pieces_of_text = st.sampled_from(
    [*OPEN_TAGS.values(), *CLOSE_TAGS.values(), "\\", "\\\\", "<", ">", "</", "<SCENE>", "<laugh>", "<\\scene>", "\n"]
    + [",", "，", "、", ";", "Scene:", "## Face\n", '{"video_desc": "', '"', "```json\n", "a", "文", "𝄞", "\u2028", " "]
)
contents = st.one_of(st.text(), st.lists(pieces_of_text, max_size=8).map("".join))
annotations = st.builds(
    Annotation,
    **{section: contents for section in DIMENSIONS},
    relation=st.sampled_from(("", *RELATIONS)),
    emotion=st.lists(contents, max_size=3).map(tuple),
)


@given(annotations)
@example(Annotation(scene="ends with \\", emotion=("x\\",)))
@example(Annotation(speech="<scene>\\<scene>\\\\</scene>"))
def test_parse_is_the_inverse_of_render(annotation):
    text = render(annotation)
    parsed = parse(text)
    assert parsed.annotation == normalise(annotation)
    assert render(parsed.annotation) == text
    assert set(parsed.notes) <= {"empty"}


@given(annotations)
def test_normalising_changes_only_blank_ends_and_labels_with_separators(annotation):
    plain = normalise(annotation)
    for section in DIMENSIONS:
        assert getattr(plain, section) == getattr(annotation, section).strip()
    assert normalise(plain) == plain
    if all(label == label.strip() and label and not set(label) & set(",，、;；\r\n") for label in annotation.emotion):
        assert plain.emotion == annotation.emotion


def test_render_writes_one_stated_section_per_line_in_the_order_of_the_paper():
    annotation = Annotation("a", "b", "", "c <laugh>", "d", "e", "conflict", ("joy", "awe"))
    assert render(annotation) == (
        "<scene>a</scene>\n<face>b</face>\n<speech>c <laugh></speech>\n<prosody>d</prosody>\n"
        "<reasoning>e</reasoning>\n<relation>conflict</relation>\n<emotion>joy, awe</emotion>"
    )
    assert render(Annotation()) == ""


def test_a_tag_in_content_is_escaped_and_so_is_the_escape():
    assert render(Annotation(speech=r"<scene> \<scene> \n")) == r"<speech>\<scene> \\<scene> \n</speech>"


@given(annotations, st.sampled_from([None, 2]), st.booleans())
def test_the_published_json_of_any_annotation_is_read_back(annotation, indent, ascii_only):
    plain = normalise(annotation)
    text = json.dumps(plain.to_json(), indent=indent, ensure_ascii=ascii_only)
    lone = any("\ud800" <= char <= "\udfff" for value in plain.to_json().values() for char in str(value))
    if not lone:
        assert parse(text).annotation == plain


# --- anything at all

FRAGMENTS = st.sampled_from(
    [
        *(*OPEN_TAGS.values(), *CLOSE_TAGS.values(), "<", "</", "\\", "<sce", "\\<face>", "<laugh>"),
        *("{", "}", "[", "]", '"', '{"video_desc": "', '"audio_desc": {', '"speech_content": "', '", ', '"foo": '),
        *("null", "1.5", "```json\n", "```", "\\n", "\\u", "\\u6587", "\\ud83d", "\\ude00", ",", ":", "："),
        *("\n", "\r\n", " ", "    ", "**", "## ", "1. ", "- ", "一、", "（2）", "【", "】", "(", ")", "---"),
        *("Scene", "facial expression", "Body language:", "Tone", "面部表情", "情感", "分析", "The ", "speaker's "),
        *("and ", " – ", "Conclusion:", "Emotion:", "Consistency:", "inconsistent", "一致", "不", "x", "文"),
    ]
)
ANSWERS = st.one_of(st.text(), st.lists(FRAGMENTS, max_size=24).map("".join))


@settings(max_examples=300)
@given(ANSWERS, st.lists(st.integers(0, 200), max_size=6))
def test_any_text_in_any_pieces_is_read_the_same_without_loss(text, cuts):
    sections, events, parsed = read([text])
    assert "".join(event.raw for event in events) == text
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for pieces in ([text[a:b] for a, b in zip(edges, edges[1:], strict=False)], text):
        split_sections, split_events, split = read(pieces)
        assert (split_sections, split) == (sections, parsed)
        assert "".join(event.raw for event in split_events) == text
    assert set(parsed.notes) <= set(NOTES)


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "Zs"])))
def test_text_without_structure_is_reasoning_and_says_so(text):
    parsed = parse("My answer, in short " + text)
    assert parsed.unstructured and parsed.notes == ("no_structure",)
    assert parsed.annotation.reasoning == ("My answer, in short " + text).strip()


@given(st.lists(FRAGMENTS, max_size=24))
def test_no_word_is_dropped(fragments):
    """A word on a line of its own is content wherever it stands, between any markup, and must be in the answer."""
    words = [f"zq{i}zq" for i in range(len(fragments))]
    parsed = parse("".join(f"{fragment}\n{word}\n" for fragment, word in zip(fragments, words, strict=True)))
    said = " ".join(str(getattr(parsed.annotation, section)) for section in SECTIONS)
    assert [word for word in words if word not in said] == []


# --- relation, titles, notes


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("consistent", "consistent"),
        ("Conflict.", "conflict"),
        ("INCONSISTENT", "conflict"),
        ("conflicting", "conflict"),
        ("not consistent", "conflict"),
        ("There is no conflict", "consistent"),
        ("No obvious signs of conflict", "consistent"),
        ("they don’t match", "conflict"),
        ("misaligned", "conflict"),
        ("一致", "consistent"),
        ("不一致", "conflict"),
        ("并不完全一致", "conflict"),
        ("冲突", "conflict"),
        ("没有明显矛盾", "consistent"),
        ("矛盾、不一致", "conflict"),
        ("partly consistent, partly in conflict", ""),
        ("unclear", ""),
        ("", ""),
    ],
)
def test_relation_is_read_in_both_languages(text, verdict):
    assert read_relation(text)[0] == verdict


@pytest.mark.parametrize(
    ("section", "phrase"), [(section, p) for section, phrases in TITLES[2].items() for p in phrases]
)
def test_every_heading_phrase_opens_its_section(section, phrase):
    """Fed character by character, so that no phrase is given up too early."""
    for heading in (f"{phrase.title()}: x", f"**{phrase}**\nx", f"2. {phrase}：x"):
        sections, _, parsed = read(f"Hello there.\n{heading}")
        assert sections[section].removeprefix("Hello there.\n") == "x", heading


@pytest.mark.parametrize(
    ("title", "section"),
    [
        ("Analysis of the Speaker's Facial Expressions and Body Language", "face"),
        ("Scene Description & Background Information", "scene"),
        ("Audio Analysis (Speech and Vocal Tone)", "prosody"),
        ("Audio transcript", "speech"),
        ("Visual cues", "scene"),
        ("Visual evidence / gaze", "face"),
        ("Non-verbal cues", "body"),
        ("Overall Emotional State of the Speaker", "reasoning"),
        ("Emotion and Sentiment Analysis", "reasoning"),
        ("Emotional tone", "prosody"),
        ("Final Emotion", "emotion"),
        ("Cross-modal consistency between face and voice", "relation"),
        ("video_desc", "scene"),
        ("facial_exp_desc", "face"),
        ("说话者的面部表情与肢体语言分析", "face"),
        ("视频的场景及其背景信息", "scene"),
        ("说话者情绪状态的综合分析", "reasoning"),
        ("语音内容和语气", "prosody"),
        ("情绪", "emotion"),
    ],
)
def test_longer_titles_go_to_their_section(title, section):
    for heading in (f"{title}: x", f"- **{title}:** x", f"## 1. {title}\nx"):
        sections, _, _ = read(heading)
        assert sections[section] == "x"


@pytest.mark.parametrize(
    "line",
    [
        "The scene is a kitchen: bright",
        "Scene one: a man enters",
        "Speaker: hello",
        "Person A: hello",
        "Note: the light changes",
        "Tone - soft",
        "**Body** language is closed",
        "Body language (posture, hands) is closed",
        "Her face, voice and body agree",
        "Expressions like this: rare",
        "- she smiles: a little",
        "1. He stands up",
        "I. think so",
        "A. nods",
        "画面中有：一个男人",
        "表情很自然：微笑",
        "一、他站起来",
        "*sighs* Scene",
        "2026 Face: a film",
        "**********Scene that never ends",
    ],
)
def test_a_line_that_only_resembles_a_heading_is_content(line):
    parsed = parse(line)
    assert parsed.annotation == Annotation(reasoning=line)
    assert parsed.unstructured


def test_every_note_has_a_sentence_in_both_languages():
    for key, sentences in NOTES.items():
        assert key.isidentifier() and set(sentences) == {"en", "zh"} and all(sentences.values())


def test_feed_after_close_is_an_error_and_a_second_close_is_not():
    parser = Parser()
    parser.feed("<scene>a")
    parser.close()
    assert parser.close() == []
    with pytest.raises(RuntimeError, match="new Parser"):
        parser.feed("b")


# --- linear time

HARD = [
    "word and more ",
    "\\",
    "<scene",
    "{",
    '{"',
    "```",
    " ",
    "The scene, and the face of\n",
    "Scene: x\n",
    '{"a": ',
]  # fmt: skip


@pytest.mark.parametrize("unit", HARD)
def test_time_is_linear_in_the_length(unit):
    def seconds(size):
        text = (unit * (size // len(unit) + 1))[:size]
        start = time.process_time()
        read(text)
        return time.process_time() - start

    small, large = min(seconds(4_000) for _ in range(3)), min(seconds(32_000) for _ in range(3))
    assert large < 8 * small * 4 + 0.05  # eight times the input; quadratic would be 64 times


def test_long_answers_are_read_quickly():
    def seconds(pieces):
        start = time.process_time()
        read(pieces)
        return time.process_time() - start

    prose = "**Scene:** " + "A woman stands in a kitchen; the light is warm. " * 20 + "\n"
    assert seconds([prose * (1_000_000 // len(prose))]) < 5
    assert seconds(["<scene>" + "A woman < stands\n" * 60_000]) < 5
    assert seconds(prose * (100_000 // len(prose))) < 5  # character by character

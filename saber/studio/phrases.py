"""How the truth of a studio clip is worded, in English and Chinese: phrases and sentence templates as data.

Goes in: a ``ClipSpec``. Comes out: the annotation that states every attribute of ``causes.truth`` and nothing else.
Which phrase is taken depends on the clip's seed alone, never on its truth. ``reader.py`` reads the same tables
backwards, so a phrase added here is understood there. To add a value: one line per language in ``LEXICON``, phrases
separated by "|"; tests/test_studio_phrases.py then says whether it can be told from the others.
The face is described by what is seen (FACS action units); the emotion is named only in the reasoning.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping

from saber.schema import RELATIONS, Annotation
from saber.studio import causes
from saber.studio.world import ATTRIBUTES, ClipSpec

Phrases = Mapping[str, tuple[str, ...]]

#: Values that are stated by leaving them out of a section that describes something else.
UNSPOKEN = {"micro": "none", "event": "none", "tremor": "no", "breath": "no", "noise": "clean"}

#: Section -> the attributes it states. Those of the reasoning are named there: "stated_face" is the face's emotion.
STATES: dict[str, tuple[str, ...]] = {
    "scene": ("scene",),
    "face": ("face", "gaze", "head", "micro"),
    "body": ("body",),
    "prosody": ("level", "movement", "rate", "loudness", "tension", "tremor", "breath", "noise"),
    "reasoning": ("stated_face", "stated_voice", "stated_relation", "words_relation", "valence", "stated_emotion"),
}

#: What a clip lacks -> section -> the reason it gives instead of a description.
LACKS: dict[str, dict[str, str]] = {
    "no_sound": dict.fromkeys(("speech", "prosody"), "no_sound"),
    "no_picture": dict.fromkeys(("scene", "face", "body"), "no_picture"),
    "nobody": dict.fromkeys(("face", "body"), "nobody"),
    "silent": dict.fromkeys(("speech", "prosody"), "silent"),
    "noise": {"speech": "noise", "prosody": "noise_voice"},
    "short": {"prosody": "short"},
}


def _split(table: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {value: tuple(phrase.strip() for phrase in line.split("|")) for value, line in table.items()}


#: Language -> attribute -> value -> its phrases. One attribute's phrases have one grammatical form.
LEXICON: dict[str, dict[str, Phrases]] = {
    "en": {
        "scene": _split({
            "kitchen": "a kitchen | a home kitchen",
            "office": "an office | an office room",
            "park": "a park | a green park",
            "street": "a street | a city street",
            "bedroom": "a bedroom | a room with a bed",
            "classroom": "a classroom | a school room",
            "cafe": "a cafe | a coffee shop",
            "hospital": "a hospital | a hospital room",
        }),
        "face": _split({
            "joy": "the lip corners rise and the cheeks lift the eyes | the mouth smiles and the eyes smile too",
            "polite": "the lip corners rise but the eyes stay still | the mouth smiles but the eyes do not",
            "sadness": "the inner brows rise and the lip corners drop | the brows slant up and the mouth turns down",
            "anger": "the brows press down and the lips are tight | the brows pull down over hard eyes",
            "fear": "the brows rise and draw together, the lips stretch | "
                    "the eyes are wide and the lips are pulled back",
            "surprise": "the brows go up and the jaw drops | the eyes open wide and the mouth falls open",
            "disgust": "the nose wrinkles and the upper lip rises | the nose is wrinkled and the lip is pulled up",
            "contempt": "one lip corner rises and tightens | only one side of the mouth is pulled up",
            "neutral": "the face is at rest | the brows and lips stay relaxed",
        }),
        "gaze": _split({
            "direct": "the eyes look at the camera | the gaze is direct",
            "down": "the eyes look down | the gaze is lowered",
            "aside": "the eyes look to the side | the gaze is turned aside",
        }),
        "head": _split({
            "still": "the head is still | the head does not move",
            "nod": "the head nods | the head moves up and down",
            "shake": "the head shakes | the head turns from side to side",
            "tilt": "the head is tilted | the head leans to one side",
        }),
        "micro": _split({
            "sadness": "a flash of sadness shows | for an instant sadness shows",
            "anger": "a flash of anger shows | for an instant anger shows",
            "fear": "a flash of fear shows | for an instant fear shows",
            "disgust": "a flash of disgust shows | for an instant disgust shows",
        }),
        "body": _split({
            "upright": "holds the body upright | keeps a straight back",
            "leaning": "leans forward | leans towards the camera",
            "crossed": "crosses the arms | keeps the arms folded",
            "palms": "shows open palms | opens both hands",
            "chin": "rests the chin on a hand | holds a hand to the chin",
            "slumped": "lets the shoulders hang | slumps down",
            "fists": "clenches both fists | holds up tight fists",
            "shrug": "shrugs | raises the shoulders in a shrug",
        }),
        "level": _split({
            "low": "low | deep",
            "mid": "mid-pitched | middle-pitched",
            "high": "high | high-pitched",
        }),
        "movement": _split({"flat": "flat | monotone", "lively": "lively | varied"}),
        "rate": _split({
            "slow": "slow | unhurried",
            "normal": "evenly paced | normal in pace",
            "fast": "fast | rapid",
        }),
        "loudness": _split({
            "soft": "soft | quiet",
            "normal": "normal in volume | moderate in volume",
            "loud": "loud | strong",
        }),
        "tension": _split({"relaxed": "relaxed | unforced", "tense": "tense | strained"}),
        "tremor": _split({"yes": "with a tremor | trembling"}),
        "breath": _split({"yes": "breathy | full of breath"}),
        "noise": _split({"noisy": "there is background noise | background noise is heard"}),
        "stated_face": _split({
            "joy": "happy smile | glad smile",
            "polite": "courteous smile | polite smile",
            "sadness": "sad face | sorrowful face",
            "anger": "angry face | angry look",
            "fear": "frightened face | fearful face",
            "surprise": "surprised face | surprised look",
            "disgust": "disgusted face | disgusted look",
            "contempt": "scornful face | contemptuous face",
            "neutral": "neutral face | calm face",
        }),
        "stated_voice": _split({
            "joy": "happy voice | glad voice",
            "tender": "tender voice | gentle voice",
            "neutral": "neutral voice | calm voice",
            "sadness": "sad voice | sorrowful voice",
            "anger": "angry voice | furious voice",
            "fear": "frightened voice | fearful voice",
            "surprise": "surprised voice | astonished voice",
            "disgust": "disgusted voice | repelled voice",
            "contempt": "scornful voice | contemptuous voice",
        }),
        "stated_relation": _split({
            "consistent": "say the same | go together",
            "conflict": "do not agree | contradict each other",
        }),
        "valence": _split({
            "positive": "pleasant words | positive words",
            "neutral": "plain words | neutral words",
            "negative": "unpleasant words | negative words",
        }),
        "words_relation": _split({
            "consistent": "fit the tone | suit the tone",
            "conflict": "clash with the tone | go against the tone",
        }),
    },
    "zh": {
        "scene": _split({
            "kitchen": "厨房 | 家里的厨房",
            "office": "办公室 | 一间办公室",
            "park": "公园 | 户外公园",
            "street": "街道 | 城市街头",
            "bedroom": "卧室 | 一间卧室",
            "classroom": "教室 | 一间教室",
            "cafe": "咖啡馆 | 咖啡店",
            "hospital": "医院 | 医院病房",
        }),
        "face": _split({
            "joy": "嘴角上扬，脸颊抬起 | 嘴在笑，眼睛也在笑",
            "polite": "嘴角上扬，眼睛却不动 | 嘴在笑，眼睛却没有笑",
            "sadness": "眉头内侧抬起，嘴角下垂 | 眉毛呈八字，嘴角向下",
            "anger": "眉毛压低，嘴唇紧闭 | 眉毛下压，眼睛瞪着",
            "fear": "眉毛抬起并靠拢，嘴唇拉开 | 眉毛上抬靠拢，嘴角向后拉",
            "surprise": "眉毛扬起，下巴落下 | 双眼睁大，嘴巴张开",
            "disgust": "鼻子皱起，上唇抬起 | 皱着鼻子，上唇上提",
            "contempt": "一侧嘴角收紧上提 | 只有一边嘴角翘起",
            "neutral": "面部放松，没有表情 | 眉毛和嘴角都放松",
        }),
        "gaze": _split({
            "direct": "眼睛看着镜头 | 目光直视前方",
            "down": "眼睛看着下方 | 目光向下",
            "aside": "眼睛看向旁边 | 目光偏向一边",
        }),
        "head": _split({
            "still": "头部不动 | 头部静止",
            "nod": "点着头 | 在点头",
            "shake": "摇着头 | 在摇头",
            "tilt": "歪着头 | 头歪向一边",
        }),
        "micro": _split({
            "sadness": "脸上闪过一丝悲伤 | 悲伤的神情一闪而过",
            "anger": "脸上闪过一丝怒气 | 愤怒的神情一闪而过",
            "fear": "脸上闪过一丝恐惧 | 恐惧的神情一闪而过",
            "disgust": "脸上闪过一丝厌恶 | 厌恶的神情一闪而过",
        }),
        "body": _split({
            "upright": "身体挺直 | 腰背挺直",
            "leaning": "身体前倾 | 身体靠向镜头",
            "crossed": "双臂交叉 | 抱着双臂",
            "palms": "摊开双手 | 张开手掌",
            "chin": "手托下巴 | 用手支着下巴",
            "slumped": "肩膀下垂 | 垂着肩膀",
            "fists": "双手握拳 | 握紧拳头",
            "shrug": "耸起肩膀 | 耸了耸肩",
        }),
        "level": _split({"low": "音调低 | 声调低", "mid": "音调适中 | 声调不高不低", "high": "音调高 | 声调高"}),
        "movement": _split({"flat": "语调平淡 | 没有起伏", "lively": "语调多变 | 起伏明显"}),
        "rate": _split({"slow": "语速慢 | 说得慢", "normal": "语速正常 | 不快不慢", "fast": "语速快 | 说得快"}),
        "loudness": _split({"soft": "音量小 | 说得轻", "normal": "音量正常 | 音量适中", "loud": "音量大 | 说得响"}),
        "tension": _split({"relaxed": "嗓音放松 | 嗓音松弛", "tense": "嗓音紧张 | 嗓音紧绷"}),
        "tremor": _split({"yes": "带着颤抖 | 声音发抖"}),
        "breath": _split({"yes": "带有气声 | 气息声明显"}),
        "noise": _split({"noisy": "背景有噪声 | 背景里能听到噪声"}),
        "stated_face": _split({
            "joy": "开心的笑容 | 高兴的笑容",
            "polite": "礼貌的笑容 | 客气的笑容",
            "sadness": "悲伤的表情 | 难过的表情",
            "anger": "愤怒的表情 | 生气的表情",
            "fear": "恐惧的表情 | 害怕的表情",
            "surprise": "惊讶的表情 | 吃惊的表情",
            "disgust": "厌恶的表情 | 反感的表情",
            "contempt": "轻蔑的表情 | 看不起人的表情",
            "neutral": "平静的表情 | 中性的表情",
        }),
        "stated_voice": _split({
            "joy": "开心的声音 | 高兴的声音",
            "tender": "温柔的声音 | 柔和的声音",
            "neutral": "平静的声音 | 中性的声音",
            "sadness": "悲伤的声音 | 难过的声音",
            "anger": "愤怒的声音 | 生气的声音",
            "fear": "恐惧的声音 | 害怕的声音",
            "surprise": "惊讶的声音 | 吃惊的声音",
            "disgust": "厌恶的声音 | 反感的声音",
            "contempt": "轻蔑的声音 | 看不起人的声音",
        }),
        "stated_relation": _split({"consistent": "是一致的 | 互相吻合", "conflict": "互相矛盾 | 对不上"}),
        "valence": _split({
            "positive": "正面的话 | 让人愉快的话",
            "neutral": "平常的话 | 中性的话",
            "negative": "负面的话 | 让人难受的话",
        }),
        "words_relation": _split({
            "consistent": "与语气相符 | 合乎语气",
            "conflict": "与语气相反 | 与语气冲突",
        }),
    },
}  # fmt: skip

#: Language -> emotion (a key of causes.EMOTIONS) -> its label, then the synonyms that the reader accepts too.
LABELS: dict[str, Phrases] = {
    "en": _split({
        "joy": "joy | happiness", "delight": "delight | happy surprise", "warmth": "warmth | affection",
        "politeness": "politeness | courtesy", "calm": "calm | calmness", "surprise": "surprise | astonishment",
        "sadness": "sadness | sorrow", "anger": "anger | rage", "fear": "fear | fright",
        "disgust": "disgust | revulsion", "contempt": "contempt | scorn", "sarcasm": "sarcasm | irony",
        "masked sadness": "masked sadness | hidden sadness", "feigned cheer": "feigned cheer | fake cheer",
        "suppressed anger": "suppressed anger | hidden anger", "cold politeness": "cold politeness | cold courtesy",
        "playful teasing": "playful teasing | teasing", "mockery": "mockery | ridicule",
        "nervous laughter": "nervous laughter | anxious laughter", "nervousness": "nervousness | anxiety",
        "false friendliness": "false friendliness | fake friendliness", "hostility": "hostility | ill will",
        "distress": "distress | anguish", "bitterness": "bitterness | resentment",
        "indignation": "indignation | outrage", "shock": "shock | dismay",
    }),
    "zh": _split({
        "joy": "喜悦 | 开心 | 高兴", "delight": "惊喜 | 又惊又喜", "warmth": "温情 | 温暖", "politeness": "礼貌 | 客气",
        "calm": "平静 | 中性", "surprise": "惊讶 | 吃惊", "sadness": "悲伤 | 难过", "anger": "愤怒 | 生气",
        "fear": "恐惧 | 害怕", "disgust": "厌恶 | 反感", "contempt": "轻蔑 | 蔑视", "sarcasm": "讽刺 | 反讽",
        "masked sadness": "掩饰的悲伤 | 强颜欢笑", "feigned cheer": "假装的高兴 | 假装的开心",
        "suppressed anger": "压抑的愤怒 | 强忍的怒气", "cold politeness": "冷淡的礼貌 | 冷淡的客气",
        "playful teasing": "善意的调侃 | 调侃", "mockery": "嘲笑 | 嘲弄", "nervous laughter": "紧张的笑 | 慌张的笑",
        "nervousness": "紧张不安 | 不安", "false friendliness": "虚假的友好 | 假装的友好", "hostility": "敌意 | 敌视",
        "distress": "痛苦 | 又悲又怕", "bitterness": "怨恨 | 怨气", "indignation": "愤慨 | 气愤",
        "shock": "震惊 | 惊恐",
    }),
}  # fmt: skip

#: How the reasoning leads up to a label. The lead-in keeps "this is anger" apart from "suppressed anger".
LEADS: dict[str, tuple[str, ...]] = {
    "en": ("this is {}", "this points to {}"),
    "zh": ("整体情绪是{}", "这里的情绪是{}"),
}

#: Language -> emotion -> what it means. Holds in every row of the table of causes that gives the emotion.
MEANINGS: dict[str, dict[str, str]] = {
    "en": {
        "joy": "the person is glad",
        "delight": "the person is glad and taken by surprise",
        "warmth": "the person speaks with kindness",
        "politeness": "good manners and no strong feeling",
        "calm": "no strong feeling shows",
        "surprise": "the person did not expect this",
        "sadness": "something weighs on the person",
        "anger": "something upsets the person",
        "fear": "the person feels in danger",
        "disgust": "something repels the person",
        "contempt": "the person looks down on something",
        "sarcasm": "the words are meant the other way round",
        "masked sadness": "a smile hides the hurt",
        "feigned cheer": "the cheer is put on",
        "suppressed anger": "it is held back",
        "cold politeness": "good manners without kindness",
        "playful teasing": "it is meant kindly",
        "mockery": "the person laughs at something",
        "nervous laughter": "the person laughs out of fear",
        "nervousness": "fear behind a friendly front",
        "false friendliness": "dislike behind a friendly voice",
        "hostility": "several kinds of dislike at once",
        "distress": "sad and afraid at once",
        "bitterness": "hurt and hostile at once",
        "indignation": "surprised and hostile at once",
        "shock": "surprised and hurt at once",
    },
    "zh": {
        "joy": "心里高兴",
        "delight": "又高兴又意外",
        "warmth": "话里带着善意",
        "politeness": "有礼貌而没有强烈的感情",
        "calm": "没有强烈的感情",
        "surprise": "事情出乎意料",
        "sadness": "心情沉重",
        "anger": "心里不满",
        "fear": "感到危险",
        "disgust": "想要避开",
        "contempt": "看不起对方",
        "sarcasm": "话要反过来听",
        "masked sadness": "用笑容掩盖难过",
        "feigned cheer": "高兴是装出来的",
        "suppressed anger": "有气却忍着",
        "cold politeness": "有礼貌却没有善意",
        "playful teasing": "其实是善意的",
        "mockery": "在笑话对方",
        "nervous laughter": "因为害怕而笑",
        "nervousness": "友好的外表下是害怕",
        "false friendliness": "友好的声音下是反感",
        "hostility": "几种反感同时出现",
        "distress": "又难过又害怕",
        "bitterness": "又难过又反感",
        "indignation": "又意外又反感",
        "shock": "又意外又难受",
    },
}  # fmt: skip

#: Language -> reason -> phrases that say a section cannot be judged, and claim nothing about it.
UNPERCEIVED: dict[str, Phrases] = {
    "en": _split({
        "no_sound": "There is no sound. | The clip has no sound.",
        "no_picture": "There is no picture. | The clip has no picture.",
        "nobody": "Nobody is in the picture. | No person is in view.",
        "silent": "Nobody speaks. | Nobody is speaking.",
        "noise": "The words are buried in noise. | Noise hides the words.",
        "noise_voice": "Noise hides the voice. | The voice is buried in noise.",
        "short": "Too short to judge the manner of speaking. | The speech is too short to judge its manner.",
    }),
    "zh": _split({
        "no_sound": "没有声音。 | 片段里没有声音。",
        "no_picture": "没有画面。 | 片段里没有画面。",
        "nobody": "画面中没有人。 | 画面里看不到人。",
        "silent": "没有人说话。 | 没人开口说话。",
        "noise": "话语被噪声盖住了。 | 噪声盖住了话语。",
        "noise_voice": "说话声被噪声盖住了。 | 噪声盖住了说话声。",
        "short": "太短，无法判断说话的方式。 | 话太短，听不出说话的方式。",
    }),
}  # fmt: skip

#: Language -> section -> templates; "[...]" is left out where its slot is unspoken. "unperceived" is any section that
#: cannot be judged (noise behind a clip too short for prosody can). The reasoning: a set for each set of channels.
TEMPLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "scene": ("The scene is {scene}.", "The place is {scene}.", "The picture shows {scene}."),
        "face": (
            "{face}; {gaze} and {head}.[ {micro}.]",
            "{gaze} and {head}; {face}.[ {micro}.]",
            "{face}. {gaze}, and {head}[; {micro}].",
        ),
        "body": ("The person {body}.", "In the picture the person {body}.", "Here the person {body}."),
        "prosody": (
            "A {level}, {movement} voice, {rate}, {loudness} and {tension}[, {tremor}][, {breath}].[ {noise}.]",
            "The voice is {level}, {movement} and {tension}[, {tremor}][, {breath}]; "
            "the speech is {rate} and {loudness}.[ {noise}.]",
            "The speech is {rate} and {loudness}, in a {level}, {movement}, {tension} voice[, {tremor}][, {breath}]."
            "[ {noise}.]",
        ),
        "unperceived": ("{unperceived}[ {noise}.]",),
        "reasoning:face+voice+valence": (
            "The {stated_face} and the {stated_voice} {stated_relation}; "
            "the {valence} {words_relation}, so {stated_emotion}: {meaning}.",
            "The {stated_face} and the {stated_voice} {stated_relation}, "
            "and the {valence} {words_relation}. {stated_emotion}: {meaning}.",
            "The {valence} {words_relation}; "
            "the {stated_face} and the {stated_voice} {stated_relation}, so {stated_emotion}: {meaning}.",
        ),
        "reasoning:face+voice": (
            "The {stated_face} and the {stated_voice} {stated_relation}, so {stated_emotion}: {meaning}.",
            "The {stated_face} and the {stated_voice} {stated_relation}. {stated_emotion}: {meaning}.",
        ),
        "reasoning:voice+valence": (
            "Only the {stated_voice} can be judged; the {valence} {words_relation}, so {stated_emotion}: {meaning}.",
            "Only the {stated_voice} is there to judge, and the {valence} {words_relation}. "
            "{stated_emotion}: {meaning}.",
            "The {valence} {words_relation}; only the {stated_voice} can be judged, so {stated_emotion}: {meaning}.",
        ),
        "reasoning:face+valence": (
            "Only the {stated_face} and the {valence} can be judged, so {stated_emotion}: {meaning}.",
            "Only the {stated_face} and the {valence} are there to judge. {stated_emotion}: {meaning}.",
            "There are only the {stated_face} and the {valence}, so {stated_emotion}: {meaning}.",
        ),
        "reasoning:voice": (
            "Only the {stated_voice} can be judged, so {stated_emotion}: {meaning}.",
            "Only the {stated_voice} is there to judge. {stated_emotion}: {meaning}.",
            "There is only the {stated_voice}, so {stated_emotion}: {meaning}.",
        ),
        "reasoning:face": (
            "Only the {stated_face} can be judged, so {stated_emotion}: {meaning}.",
            "Only the {stated_face} is there to judge. {stated_emotion}: {meaning}.",
            "There is only the {stated_face}, so {stated_emotion}: {meaning}.",
        ),
    },
    "zh": {
        "scene": ("场景是{scene}。", "地点是{scene}。", "画面里是{scene}。"),
        "face": (
            "{face}；{gaze}，{head}。[{micro}。]",
            "{gaze}，{head}；{face}。[{micro}。]",
            "人物{head}，{gaze}。{face}[；{micro}]。",
        ),
        "body": ("人物{body}。", "画面中的人{body}。", "可以看到人物{body}。"),
        "prosody": (
            "{level}，{movement}，{rate}，{loudness}，{tension}[，{tremor}][，{breath}]。[{noise}。]",
            "{rate}，{loudness}；{level}，{movement}，{tension}[，{tremor}][，{breath}]。[{noise}。]",
            "{tension}，{level}，{movement}[，{tremor}][，{breath}]；{rate}，{loudness}。[{noise}。]",
        ),
        "unperceived": ("{unperceived}[{noise}。]",),
        "reasoning:face+voice+valence": (
            "{stated_face}和{stated_voice}{stated_relation}，{valence}{words_relation}，{stated_emotion}：{meaning}。",
            "{stated_face}和{stated_voice}{stated_relation}。{valence}{words_relation}。{stated_emotion}：{meaning}。",
            "{valence}{words_relation}，{stated_face}和{stated_voice}{stated_relation}，{stated_emotion}：{meaning}。",
        ),
        "reasoning:face+voice": (
            "{stated_face}和{stated_voice}{stated_relation}，{stated_emotion}：{meaning}。",
            "{stated_face}和{stated_voice}{stated_relation}。{stated_emotion}：{meaning}。",
        ),
        "reasoning:voice+valence": (
            "只能听到{stated_voice}，{valence}{words_relation}，{stated_emotion}：{meaning}。",
            "只有{stated_voice}可以判断。{valence}{words_relation}。{stated_emotion}：{meaning}。",
            "{valence}{words_relation}，只有{stated_voice}可以判断，{stated_emotion}：{meaning}。",
        ),
        "reasoning:face+valence": (
            "只能根据{stated_face}和{valence}判断，{stated_emotion}：{meaning}。",
            "只有{stated_face}和{valence}可以判断。{stated_emotion}：{meaning}。",
        ),
        "reasoning:voice": (
            "只能听到{stated_voice}，{stated_emotion}：{meaning}。",
            "只有{stated_voice}可以判断。{stated_emotion}：{meaning}。",
        ),
        "reasoning:face": (
            "只能根据{stated_face}判断，{stated_emotion}：{meaning}。",
            "只有{stated_face}可以判断。{stated_emotion}：{meaning}。",
        ),
    },
}  # fmt: skip

#: One random draw each, always in this order and always all of them: so the wording tells nothing about the truth.
SLOTS = ("scene", "face", "gaze", "head", "micro", "body", "unperceived", *STATES["prosody"], *STATES["reasoning"],
         "lead", *(f"template:{section}" for section in STATES))  # fmt: skip
CANONICAL_SHARE = 0.85  # of answers that use an emotion's first label
_SEED_SALT = 0x5ABE2


def annotate(spec: ClipSpec, wording: int = 0) -> Annotation:
    """The annotation of one clip in ``spec.language`` ("en" or "zh"; KeyError otherwise). ``wording``: which of the
    many ways to say it.

    Says of each thing that cannot be perceived why not, and claims nothing about it. The same spec gives the same
    text; two specs with one seed take the same turns of phrase, whatever is true of them.
    """
    generator = random.Random(spec.seed ^ _SEED_SALT if wording == 0 else f"{spec.seed}/{wording}")
    return compose(causes.truth(spec), spec.incomplete, spec.language, {slot: generator.random() for slot in SLOTS})


def compose(found: Mapping[str, str], incomplete: str, language: str, draws: Mapping[str, float]) -> Annotation:
    """The annotation that states ``found`` (as from ``causes.truth``) of a clip that lacks ``incomplete``.

    ``draws``: slot of SLOTS -> a number in [0, 1), which of the phrases or templates to take. Raises KeyError where
    ``found`` holds neither a face nor a voice, which no kind of incomplete clip leaves.
    """
    lexicon, templates, lacks = LEXICON[language], TEMPLATES[language], LACKS.get(incomplete, {})

    def pick(options: tuple[str, ...], slot: str) -> str:
        return options[int(draws[slot] * len(options))]

    def word(attribute: str, value: str) -> str:
        """ "" for what is left unspoken."""
        return pick(lexicon[attribute][value], attribute) if value in lexicon[attribute] else ""

    said: dict[str, str] = {}
    for section in ("scene", "face", "body", "prosody"):
        slots = {name: word(name, found[name]) for name in STATES[section] if name in found}
        if section in lacks:
            slots["unperceived"] = pick(UNPERCEIVED[language][lacks[section]], "unperceived")
        template = pick(templates["unperceived" if section in lacks else section], f"template:{section}")
        said[section] = _fill(template, slots)
    if "speech" in lacks:
        said["speech"] = pick(UNPERCEIVED[language][lacks["speech"]], "unperceived")
    else:
        event = found.get("event", "none")
        said["speech"] = found["words"] if event == "none" else f"<{event}> {found['words']}"

    label = _label(found["emotion"], language, draws["stated_emotion"])
    slots = {name: word(name, found[name]) for name in ("valence", "words_relation") if name in found}
    for name in ("face", "voice", "relation"):
        if name in found:
            slots[f"stated_{name}"] = word(f"stated_{name}", found[name])
    slots["stated_emotion"] = pick(LEADS[language], "lead").format(label)
    slots["meaning"] = MEANINGS[language][found["emotion"]]
    channels = "+".join(name for name in ("face", "voice", "valence") if name in found)
    said["reasoning"] = _fill(pick(templates[f"reasoning:{channels}"], "template:reasoning"), slots)
    return Annotation(**said, relation=found.get("relation", ""), emotion=(label,))


def phrasings(attribute: str, value: str, language: str) -> tuple[str, ...]:
    """Every way that ``annotate`` may put one value of an attribute; () where it is left unspoken.

    ``attribute``: a key of world.ATTRIBUTES ("voice" and "relation" as the reasoning names them), "stated_face",
    "emotion" (its labels), or a section with a value "unperceived:<reason>", the reasons as in LACKS.
    Raises KeyError for what is not in the vocabulary.
    """
    if value.startswith("unperceived:"):
        return UNPERCEIVED[language][value.partition(":")[2]]
    if attribute == "emotion":
        return LABELS[language][value]
    if UNSPOKEN.get(attribute) == value:
        return ()
    if attribute == "event":
        return (f"<{value}>",) if value in ATTRIBUTES["event"] else {}[value]
    return LEXICON[language][attribute if attribute in LEXICON[language] else f"stated_{attribute}"][value]


def corpus() -> Iterator[str]:
    """Every phrase and every template (without its slots), both languages: text to train a tokenizer on, besides the
    annotations themselves. English phrases come as they stand in a sentence and at its start."""
    yield from RELATIONS
    yield from (f"<{event}>" for event in ATTRIBUTES["event"] if event != "none")
    for language in LEXICON:
        tables = (*LEXICON[language].values(), LABELS[language], UNPERCEIVED[language])
        phrases = [phrase for table in tables for options in table.values() for phrase in options]
        phrases += MEANINGS[language].values()
        phrases += [lead.format(label[0]) for lead in LEADS[language] for label in LABELS[language].values()]
        for phrase in dict.fromkeys(phrases):
            yield from dict.fromkeys((phrase, phrase[0].upper() + phrase[1:]))
        for options in TEMPLATES[language].values():
            yield from (re.sub(r"\{\w+\}|[\[\]]", "", template) for template in options)


def _label(emotion: str, language: str, draw: float) -> str:
    """The emotion's label: mostly the first; a synonym for the rest of the draws."""
    first, *synonyms = LABELS[language][emotion]
    if draw < CANONICAL_SHARE:
        return first
    return synonyms[int((draw - CANONICAL_SHARE) / (1 - CANONICAL_SHARE) * len(synonyms))]


def _fill(template: str, words: Mapping[str, str]) -> str:
    """Fills the slots, leaves out a "[...]" whose slot is empty or missing, and starts each sentence with a capital."""

    def optional(match: re.Match[str]) -> str:
        slot = re.search(r"\{(\w+)\}", match[1])
        return match[1] if slot is None or words.get(slot[1]) else ""

    text = re.sub(r"\[([^\]]*)\]", optional, template).format_map(words)
    return re.sub(r"(^|\. )([a-z])", lambda match: match[1] + match[2].upper(), text)

"""Every word of the page, in English and Chinese.

``words(language)`` gives one language's table; both tables have the same keys (a test holds this). To change what the
page says, change it here; to add a sentence, add its key to both tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_EN = {
    # Groups and cards
    "seen": "What is seen",
    "heard": "What is heard",
    "meant": "What it means",
    "scene": "Scene",
    "face": "Face",
    "body": "Body",
    "speech": "Speech",
    "prosody": "Voice",
    "reasoning": "Reasoning",
    "verdict": "Verdict",
    "relation": "Face and voice",
    "emotion": "Emotion",
    # What an empty card is waiting for
    "hint_scene": "Where this is, and what surrounds the person.",
    "hint_face": "Brows, eyes, mouth, gaze, and how they move.",
    "hint_body": "Posture, hands, gestures.",
    "hint_speech": "The words, and sounds such as a laugh or a sigh.",
    "hint_prosody": "Pitch, pace, loudness, tension.",
    "hint_reasoning": "What the evidence adds up to, and why.",
    "hint_verdict": "Do face and voice agree? What is felt?",
    # Why a card stays empty
    "no_picture": "The clip has no picture.",
    "no_sound": "The clip has no sound.",
    "sound_only": "Not looked at: you asked for the sound alone.",
    "picture_only": "Not listened to: you asked for the picture alone.",
    "not_stated": "Not stated.",
    "not_reached": "Not reached.",
    # Relation
    "consistent": "agree",
    "conflict": "disagree",
    # Status
    "empty": "Choose or record a clip, then analyse it.",
    "no_clip": "There is no clip yet. Upload one, record one, or take an example.",
    "waiting": "Waiting for the model, then reading the clip.",
    "looking": "Looking and listening.",
    "writing": "Writing: {section}.",
    "done": "Done.",
    "done_consistent": "Done. Face and voice agree.",
    "done_conflict": "Done. Face and voice disagree.",
    "stopped": "Stopped. What was written so far stays.",
    "no_room": "This clip is too much for this machine's memory now. Give a shorter part of it, or only the picture or "
    "the sound; or try again later.",
    "bug": "Something went wrong on our side, and it was noted in the server's log. Please try again.",
    # Facts
    "frames": ("{count} frame", "{count} frames"),
    "video_s": "{seconds:.1f}\u00a0s of picture",
    "audio_s": "{seconds:.1f}\u00a0s of sound",
    "prompt_tokens": ("{count} token", "{count} tokens"),
    "saw": "The model was given {things}.",
    "list": ", ",
    "clauses": ", ",
    "first_s": "First words after {seconds:.1f}\u00a0s",
    "total_s": "whole answer in {seconds:.1f}\u00a0s",
    "so_far_s": "stopped after {seconds:.1f}\u00a0s",
    "sentence": "{text}.",
    # Problems and notes whose own sentence, in saber.media, speaks to a programmer or needs figures
    "problem_too_long": "This clip is {length_s} s long, and at most {limit_s:g} s are read at once. Please cut it "
    "shorter and try again.",
    "problem_outside": "The part that was asked for begins at {start_s:g} s, but the clip ends at {end_s:.2f} s.",
    "note_damaged": "The file is damaged or cut off; only a part of it could be read.",
    "note_shortened": "The file ends earlier than the part that was asked for.",
    "note_answer_cut_off": "The answer reached its longest allowed length and was cut off.",
    # Who speaks
    "speaks": "{title} speaks here.",
    "speaks_size": "{title} speaks here, a model of {size} parameters.",
    "million": "{count} million",
    "trained_on": "It was trained on {data}.",
    "trained_on_unknown": "What it was trained on is not recorded with it.",
    "no_judge": "It is no judge of real people: read its answers as a demonstration, and decide nothing about anyone "
    "by them.",
}

_ZH = {
    "seen": "看到的",
    "heard": "听到的",
    "meant": "意味着什么",
    "scene": "场景",
    "face": "面部",
    "body": "身体",
    "speech": "言语",
    "prosody": "语气",
    "reasoning": "推理",
    "verdict": "结论",
    "relation": "表情与声音",
    "emotion": "情绪",
    "hint_scene": "身在何处，周围有什么。",
    "hint_face": "眉、眼、口、视线，以及它们的变化。",
    "hint_body": "姿态、双手、动作。",
    "hint_speech": "说了什么，以及笑声、叹息之类的声音。",
    "hint_prosody": "音高、语速、音量、紧张程度。",
    "hint_reasoning": "这些证据合起来说明什么，为什么。",
    "hint_verdict": "表情与声音一致吗？是什么感受？",
    "no_picture": "这段视频没有画面。",
    "no_sound": "这段视频没有声音。",
    "sound_only": "没有看画面：您只选了声音。",
    "picture_only": "没有听声音：您只选了画面。",
    "not_stated": "未说明。",
    "not_reached": "尚未写到。",
    "consistent": "一致",
    "conflict": "不一致",
    "empty": "请上传或录制一段视频，然后开始分析。",
    "no_clip": "还没有视频。请上传、录制，或选一个示例。",
    "waiting": "等待模型，随后读取视频。",
    "looking": "正在看，正在听。",
    "writing": "正在写：{section}。",
    "done": "完成。",
    "done_consistent": "完成。表情与声音一致。",
    "done_conflict": "完成。表情与声音不一致。",
    "stopped": "已停止。已写出的内容保留。",
    "no_room": "这台机器的内存目前不足以处理该片段。请选取较短的部分，或只用画面或声音，或稍后再试。",
    "bug": "我们这边出了错，已记入服务器日志。请再试一次。",
    "frames": ("{count} 帧", "{count} 帧"),
    "video_s": "{seconds:.1f} 秒画面",
    "audio_s": "{seconds:.1f} 秒声音",
    "prompt_tokens": ("{count} 个词元", "{count} 个词元"),
    "saw": "交给模型的有：{things}。",
    "list": "、",
    "clauses": "，",
    "first_s": "{seconds:.1f} 秒后写出第一个字",
    "total_s": "全部回答用时 {seconds:.1f} 秒",
    "so_far_s": "{seconds:.1f} 秒后停止",
    "sentence": "{text}。",
    "problem_too_long": "这段视频长 {length_s} 秒，一次最多读取 {limit_s:g} 秒。请剪短后再试。",
    "problem_outside": "所选部分从 {start_s:g} 秒开始，但视频在 {end_s:.2f} 秒就结束了。",
    "note_damaged": "文件已损坏或不完整，只读出了一部分。",
    "note_shortened": "文件在所选部分结束之前就结束了。",
    "note_answer_cut_off": "回答达到允许的最大长度，被截断。",
    "speaks": "这里说话的是 {title}。",
    "speaks_size": "这里说话的是 {title}，一个有 {size}参数的模型。",
    "million": "{count} 百万",
    "trained_on": "它的训练材料是{data}。",
    "trained_on_unknown": "它用什么训练，未随模型记录。",
    "no_judge": "它不能评判真实的人：请把它的回答看作演示，不要据此对任何人作出决定。",
}

WORDS: Mapping[str, Mapping[str, str | tuple[str, str]]] = MappingProxyType(
    {"en": MappingProxyType(_EN), "zh": MappingProxyType(_ZH)}
)


def say(language: str, key: str, **values: object) -> str:
    """One sentence of the page. ``count`` among the values chooses between singular and plural.

    Raises KeyError for a key or language that is not in the tables.
    """
    text = WORDS[language][key]
    if isinstance(text, tuple):
        text = text[0] if values.get("count") == 1 else text[1]
    return text.format(**values)

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
    "waiting": "Reading the clip.",
    "queued": ("{count} visitor is before you.", "{count} visitors are before you."),
    "looking": "Looking and listening.",
    "writing": "Writing: {section}.",
    "done": "Done.",
    "done_consistent": "Done. Face and voice agree.",
    "done_conflict": "Done. Face and voice disagree.",
    "stopped": "Stopped. What was written so far stays.",
    "again": "{what}: {status}",
    "line_full": "The line is full: it holds {limit} at most. Please try again in a few minutes.",
    "too_many_at_once": "You have {limit} in the line already, and more is not allowed. Wait until one is answered, or "
    "stop one.",
    "no_room": "This clip is too much for this machine's memory now. Give a shorter part of it, or only the picture or "
    "the sound; or try again later.",
    "no_gpu": "This Space got no GPU for it: {told}",
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
    "problem_too_long": "This clip is {length_s} s long, and at most {limit_s:g} s are read at once. Choose a part "
    "of it and try again.",
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
    "learned_from": "{title} learned from {data}.",
    # Part of a clip
    "part": "Only a part of it",
    "part_words": "Seconds {start:.1f} to {end:.1f} of {length:.1f} will be read.",
    "part_long": "This clip is {length:.1f} s long, and at most {limit:g} s are read at once. Choose which: now it is "
    "seconds {start:.1f} to {end:.1f}.",
    "part_begin": "From (seconds)",
    "part_end": "To (seconds)",
    "part_read": "Seconds {start:.1f} to {end:.1f} of {length:.1f} were read.",
    # Signals
    "measured": "Measured from the sound, not said by the model",
    "strip": "The frames that the model was given",
    "frame_at": "The frame at {when}",
    "at_s": "{seconds:.1f}\u00a0s",
    "waveform": "Waveform",
    "pitch": "Pitch",
    "pitch_words": "{middle:.0f}\u00a0Hz in the middle, mostly {low:.0f} to {high:.0f}",
    "no_pitch": "no voice was found",
    "loudness": "Loudness",
    "loudness_words": "{middle:.0f}\u00a0dB in the middle, mostly {low:.0f} to {high:.0f} (0\u00a0dB is full scale)",
    "no_loudness": "nothing was heard",
    # Cues, confidence
    "clash": "“{seen}” against “{heard}”",
    "match": "“{seen}” with “{heard}”",
    "sure": "{percent:.0f}\u00a0% sure",
    "sure_of": "How sure it was, by the probability of its words: {things}.",
    "sure_one": "{section} {percent:.0f}\u00a0%",
    # Mute it
    "mute": "What carries the verdict?",
    "mute_words": "Take the sound or the picture away and see whether the verdict stays.",
    "both": "Picture and sound",
    "picture": "Picture alone",
    "sound": "Sound alone",
    "without_sound": "Without the sound",
    "without_picture": "Without the picture",
    "not_asked": "Not asked yet.",
    "carried_picture": "The picture carries it: without the sound the verdict stays, without the picture it does not.",
    "carried_sound": "The sound carries it: without the picture the verdict stays, without the sound it does not.",
    "carried_either": "Each alone leads to the same verdict.",
    "carried_together": "Only both together lead to this verdict.",
    # Taking it away
    "copy": "Copy the answer",
    "copied": "Copied",
    "json": "JSON",
    "report": "Report",
    "report_title": "What a clip shows and says",
    "made_by": "Written by {title} with SABER.",
    # Controls and masthead
    "page_language": "Page in",
    "lede": "Give it a clip of somebody speaking. It writes down what it sees and what it hears, one piece of evidence "
    "after another, and only then what the person seems to feel and why, above all when face and voice disagree.",
    "headline": "What a face shows, what a voice tells",
    "clip": "Clip",
    "sound_file": "Or a sound file",
    "answer_in": "Answer in",
    "like_the_clip": "Like the clip",
    "give": "Give the model",
    "give_picture": "Picture",
    "give_sound": "Sound",
    "analyse": "Analyse",
    "stop": "Stop",
    "clear": "Clear",
    "examples": "Or an example that the model has not seen",
    # The foot of the page
    "foot": "Before you use it",
    "foot_for": "It shows how evidence can lead to a verdict, for study and for trying out. It is not for decisions "
    "about people: what somebody feels cannot be read off a clip with certainty, by this or by any model.",
    "foot_law": "In the European Union, inferring the emotions of people at work or in education is prohibited by law, "
    "but for medical or safety reasons (AI Act, Article 5(1)(f)).",
    "foot_consent": "Give it only clips whose people have agreed to it.",
    "foot_clip": "Your clip is sent to the computer that serves this page and to nobody else. There the file is "
    "deleted {minutes:.0f} minutes later at the latest. What this page shows of it stays in that computer's memory "
    "until you clear it, or as long again after you close the page. The page asks no other site for anything and "
    "counts nobody.",
    "foot_share": "This page is reached through a public link of Gradio's, so clips pass through Gradio's servers.",
    "foot_api": "Use it from a program",
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
    "waiting": "正在读取视频。",
    "queued": ("您前面还有 {count} 位访客。", "您前面还有 {count} 位访客。"),
    "looking": "正在看，正在听。",
    "writing": "正在写：{section}。",
    "done": "完成。",
    "done_consistent": "完成。表情与声音一致。",
    "done_conflict": "完成。表情与声音不一致。",
    "stopped": "已停止。已写出的内容保留。",
    "again": "{what}：{status}",
    "line_full": "队列已满（最多 {limit} 位），请几分钟后再试。",
    "too_many_at_once": "您已有 {limit} 段视频在队列中。请等其中一段完成，或停止一段。",
    "no_room": "这台机器的内存目前不足以处理该片段。请选取较短的部分，或只用画面或声音，或稍后再试。",
    "no_gpu": "这个 Space 没有分到 GPU：{told}",
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
    "problem_too_long": "这段视频长 {length_s} 秒，一次最多读取 {limit_s:g} 秒。请选取其中一段后再试。",
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
    "learned_from": "{title} 的训练材料是{data}。",
    "part": "只取其中一段",
    "part_words": "将读取第 {start:.1f} 至 {end:.1f} 秒，全长 {length:.1f} 秒。",
    "part_long": "这段视频长 {length:.1f} 秒，一次最多读取 {limit:g} 秒。"
    "请选择要读取的部分：现在是第 {start:.1f} 至 {end:.1f} 秒。",
    "part_begin": "从（秒）",
    "part_end": "到（秒）",
    "part_read": "读取了第 {start:.1f} 至 {end:.1f} 秒，全长 {length:.1f} 秒。",
    "measured": "由声音测量所得，并非模型所说",
    "strip": "交给模型的各帧",
    "frame_at": "{when}处的画面",
    "at_s": "{seconds:.1f} 秒",
    "waveform": "波形",
    "pitch": "音高",
    "pitch_words": "中位 {middle:.0f} 赫兹，多在 {low:.0f} 至 {high:.0f} 之间",
    "no_pitch": "未测到人声",
    "loudness": "响度",
    "loudness_words": "中位 {middle:.0f} 分贝，多在 {low:.0f} 至 {high:.0f} 之间（0 分贝为满刻度）",
    "no_loudness": "没有声音",
    "clash": "“{seen}”与“{heard}”相冲突",
    "match": "“{seen}”与“{heard}”相符",
    "sure": "把握 {percent:.0f}%",
    "sure_of": "按其用词的概率，把握程度为：{things}。",
    "sure_one": "{section} {percent:.0f}%",
    "mute": "结论由什么得出？",
    "mute_words": "去掉声音或画面，看看结论是否改变。",
    "both": "画面和声音",
    "picture": "只有画面",
    "sound": "只有声音",
    "without_sound": "去掉声音",
    "without_picture": "去掉画面",
    "not_asked": "尚未询问。",
    "carried_picture": "结论由画面得出：去掉声音，结论不变；去掉画面，结论改变。",
    "carried_sound": "结论由声音得出：去掉画面，结论不变；去掉声音，结论改变。",
    "carried_either": "单凭其中任何一个，都得出同样的结论。",
    "carried_together": "只有两者合在一起，才得出这个结论。",
    "copy": "复制回答",
    "copied": "已复制",
    "json": "JSON",
    "report": "报告",
    "report_title": "一段视频显示了什么、说了什么",
    "made_by": "由 {title} 通过 SABER 写成。",
    "page_language": "页面语言",
    "lede": "给它一段有人说话的视频。它先逐条写下看到的和听到的，"
    "然后才写出这个人似乎是什么感受、为什么，在表情与声音不一致时尤其如此。",
    "headline": "脸上显示的，声音诉说的",
    "clip": "视频",
    "sound_file": "或一个声音文件",
    "answer_in": "回答语言",
    "like_the_clip": "与视频相同",
    "give": "交给模型",
    "give_picture": "画面",
    "give_sound": "声音",
    "analyse": "分析",
    "stop": "停止",
    "clear": "清除",
    "examples": "或选一个模型没有见过的示例",
    "foot": "使用之前",
    "foot_for": "它演示如何由证据得出结论，供研究和试用。它不用于对人作决定："
    "无论这个模型还是任何模型，都不能从一段视频中确知一个人的感受。",
    "foot_law": "在欧盟，法律禁止在工作场所和教育机构推断人的情绪，"
    "医疗或安全原因除外（《人工智能法》第 5 条第 1 款 f 项）。",
    "foot_consent": "只使用片中人已经同意的视频。",
    "foot_clip": "您的视频只发送到提供本页面的计算机，不会发给任何其他人；"
    "最迟 {minutes:.0f} 分钟后在那里删除。"
    "本页面所显示的内容留在该计算机的内存中，直到您清除，或在您关闭页面后再过同样长的时间。"
    "本页面不向其他网站请求任何内容，也不统计访客。",
    "foot_share": "本页面经由 Gradio 的公开链接访问，因此视频会经过 Gradio 的服务器。",
    "foot_api": "在程序中使用",
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

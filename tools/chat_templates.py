"""Chat templates in the manner of the families that the programs load, for goldens and checks. They are written
for this project, and try what the families' own templates do: roles as headers, turns with other names, tools as
JSON, thinking that earlier turns lose, content in parts, refusals, namespaces, macros. Those that mark what the
assistant says with {% generation %} are named so."""

TEMPLATES = {}

# Llama 3: headers; the first system message is always there
TEMPLATES["llama3"] = """{{- bos_token }}
{%- set system = '' %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools is not none %}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) }}
        {{- '\\n\\n' }}
    {%- endfor %}
{%- endif %}
{{- system + '<|eot_id|>' }}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception('one call at a time') }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {{- '{"name": "' + call.name + '", "parameters": ' ~ call.arguments | tojson ~ '}<|eot_id|>' }}
    {%- elif message.role in ['tool', 'ipython'] %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' ~ (message.content | tojson if message.content is mapping or message.content is iterable else message.content) ~ '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

# Qwen 2.5: ChatML
TEMPLATES["qwen2"] = """{%- macro turn(role, content) -%}
<|im_start|>{{ role }}
{{ content }}<|im_end|>
{% endmacro %}
{%- if messages[0].role != 'system' %}
    {{- turn('system', 'You answer questions.') }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' and (loop.first or messages[loop.index0 - 1].role != 'tool') %}
        {{- '<|im_start|>user' }}
    {%- endif %}
    {%- if message.role == 'tool' %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- else %}
        {{- turn(message.role, message.content) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

# Qwen 3: thinking stays in turns behind the last question alone
TEMPLATES["qwen3"] = """{%- set ns = namespace(last=messages|length - 1, looking=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.looking and message.role == 'user' and not message.content.startswith('<tool_response>') %}
        {%- set ns.last = index %}
        {%- set ns.looking = false %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

# Mistral: instructions in brackets, the system message in the first or the last of them
TEMPLATES["mistral"] = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('user and assistant must take turns') }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.first and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- else %}
        {{- raise_exception("roles are user and assistant, not " + message["role"]) }}
    {%- endif %}
{%- endfor %}
"""

# Gemma: the assistant is called model; content may come in parts
TEMPLATES["gemma"] = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set first_prefix = '' -%}
    {%- set rest = messages -%}
{%- endif -%}
{%- for message in rest -%}
    {%- if message['role'] == 'assistant' -%}
        {%- set role = 'model' -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_prefix if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] if item['type'] == 'text' -%}
            {{ item['text'] | trim }}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception('content of an unknown kind') }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""

# Phi 3: tokens that take the white space behind them
TEMPLATES["phi3"] = """{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + '<|end|>\\n' }}{% elif message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '<|end|>\\n' }}{% elif message['role'] == 'assistant' %}{{ '<|assistant|>\\n' + message['content'] + '<|end|>\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

# SmolLM 3: marked, with settings that may be left out
TEMPLATES["smollm3 generation"] = """{# modes #}
{%- if enable_thinking is not defined -%}
    {%- set enable_thinking = true -%}
{%- endif -%}
{%- set mode = '/think' if enable_thinking else '/no_think' -%}
{%- set own = '' -%}
{%- if messages[0].role == 'system' -%}
    {%- set own = messages[0].content.replace('/no_think', '').replace('/think', '').rstrip() -%}
    {%- set mode = '/no_think' if '/no_think' in messages[0].content else mode -%}
{%- endif -%}
{{- '<|im_start|>system\\n' -}}
{%- if tools -%}
    {%- set ns = namespace(list='') -%}
    {%- for tool in tools -%}
        {%- set ns.list = ns.list ~ (tool | string) ~ '\\n' -%}
    {%- endfor -%}
    {{- '## Tools\\n' ~ ns.list -}}
{%- endif -%}
{{- 'Mode: ' + mode + '\\n' + own + '<|im_end|>\\n' -}}
{%- for message in messages -%}
    {%- set content = message.content if message.content is string else '' -%}
    {%- if message.role == 'user' -%}
        {{ '<|im_start|>user\\n' + content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' -%}
        {%- generation -%}
        {%- if mode == '/think' -%}
            {{ '<|im_start|>assistant\\n' + content.lstrip('\\n') + '<|im_end|>\\n' }}
        {%- else -%}
            {{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n' + content.lstrip('\\n') + '<|im_end|>\\n' }}
        {%- endif -%}
        {%- endgeneration -%}
    {%- elif message.role == 'tool' -%}
        {{ '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<|im_start|>assistant\\n' ~ ('' if mode == '/think' else '<think>\\n\\n</think>\\n') }}
{%- endif -%}"""

# Granite: roles between two tokens, tools and documents as turns of their own
TEMPLATES["granite"] = """{%- set system_message = 'You help.' %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\\n' }}
{%- if tools %}
    {{- '<|start_of_role|>tools<|end_of_role|>' }}
    {{- tools | tojson(indent=4) }}
    {{- '<|end_of_text|>\\n' }}
{%- endif %}
{%- for message in loop_messages %}
    {{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\\n' }}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|start_of_role|>assistant' }}
        {%- if controls %}
            {{- ' ' + controls | tojson() }}
        {%- endif %}
        {{- '<|end_of_role|>' }}
    {%- endif %}
{%- endfor %}"""

# OLMo 2: names of roles as tags; the last answer ends otherwise than those before
TEMPLATES["olmo2"] = """{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + '\\n' }}
{% elif message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + '\\n' }}
{% elif message['role'] == 'assistant' %}
{% if not loop.last %}
{{ '<|assistant|>\\n' + message['content'] + eos_token + '\\n' }}
{% else %}
{{ '<|assistant|>\\n' + message['content'] + eos_token }}
{% endif %}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>\\n' }}
{% endif %}
{% endfor %}"""


def marked(name, head, body, tail, foot):
    """A template that writes each turn as head, content and tail, with the assistant's content and tail marked."""
    TEMPLATES[name + " generation"] = (
        "{{- bos_token }}\n{%- for message in messages %}\n"
        f"{{{{- {head} }}}}\n"
        "{%- if message.role == 'assistant' %}\n"
        f"    {{%- generation %}}\n    {{{{- {body} + {tail} }}}}\n    {{%- endgeneration %}}\n"
        f"{{%- else %}}\n    {{{{- {body} + {tail} }}}}\n{{%- endif %}}\n{{{{- {foot} }}}}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}{%- set message = {'role': 'assistant'} %}"
        f"{{{{- {head} }}}}{{%- endif %}}")


marked("llama3", "'<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n'", "message.content | trim",
       "'<|eot_id|>'", "''")
marked("qwen2", "'<|im_start|>' ~ message.role ~ '\\n'", "message.content", "'<|im_end|>'", "'\\n'")
marked("gemma", "'<start_of_turn>' ~ ('model' if message.role == 'assistant' else message.role) ~ '\\n'",
       "message.content | trim", "'<end_of_turn>'", "'\\n'")
marked("phi3", "'<|' ~ message.role ~ '|>\\n'", "message.content", "'<|end|>'", "'\\n'")
marked("granite", "'<|start_of_role|>' ~ message.role ~ '<|end_of_role|>'", "message.content", "'<|end_of_text|>'",
       "'\\n'")
marked("mistral", "'[INST] ' if message.role != 'assistant' else ' '",
       "message.content | trim ~ ('[/INST]' if message.role != 'assistant' else '')",
       "(eos_token if message.role == 'assistant' else '')", "''")

TOOL = {"type": "function", "function": {"name": "weather", "description": "Says \"sun\" or <rain>", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "enum": ["Köln", "Oslo"]}, "days": {"type": "integer"}},
    "required": ["city"]}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2, "odd": [1.5, None, True]}}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


CONVERSATIONS = {
    "one": [user("Hi"), assistant("Hello.")],
    "system": [{"role": "system", "content": "Be brief. "}, user(" Who? \n"), assistant(" Me.\n")],
    "several": [user("a b"), assistant("c  d"), user("e\n\nf"), assistant("g é 日本 🙂"), user("h"), assistant("i")],
    "thinking": [user("q"), assistant("<think>\nhm\n</think>\n\none"), user("r"), assistant("<think>\nso\n</think>\n\ntwo")],
    "apart": [user("q"), assistant("one", reasoning_content="because")],
    "tools": [user("sun?"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "{\"sun\": 3}"}, assistant("3")],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image"}]}, assistant("at what?")],
    "question": [user("a"), assistant("b"), user("c")],
}

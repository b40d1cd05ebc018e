#!/usr/bin/env python3
"""Makes tests/golden/template_cases.json: templates, variables, and the text and the marked spans that Jinja makes of
them with the settings and functions of transformers (5.24.0; jinja2 3.1.6). tests/test_template.c compares.

    python3 tools/golden_template.py

run from the root of the repository. Where Jinja fails the case says so, and ours has to fail too.
"""

import importlib.metadata
import json

from transformers.utils.chat_template_utils import _compile_jinja_template, _render_with_assistant_indices

from chat_templates import CONVERSATIONS, TEMPLATES, TOOL

OUT = "tests/golden/template_cases.json"
VALUES = {"n": None, "t": True, "i": 7, "f": 2.5, "s": "Ab c", "u": "äß 日\n", "l": [3, 1, 2], "e": [], "z": "",
          "d": {"b": 1, "a": {"x": [1, 2, {"k": "v"}]}, "items": 5}, "m": [{"r": "u", "c": "1"}, {"r": "a", "c": "2"}, {"r": "u"}]}

# What stands between {{ and }}
EXPRESSIONS = """
1 + 2 * 3 - 4 | 7 // 2 ~ 7 % 3 ~ -7 // 2 ~ -7 % 3 ~ 7 % -3 | 2 ** 10 ~ 2 ** 0.5 ~ 1 / 4 ~ 4 / 2
1e16 ~ ' ' ~ 1e15 ~ ' ' ~ 0.1 ~ ' ' ~ 1e-5 ~ ' ' ~ 123456.75 ~ ' ' ~ 1.0 | 0.0001 ~ ' ' ~ 0.00001 ~ ' ' ~ 1e22 ~ ' ' ~ 5e-324
i < 8 ~ 1 < i < 9 ~ 1 < i < 3 ~ 'a' < 'b' ~ [1, 2] < [1, 3] | not n and (t or false) ~ (z or 'else') ~ (s and l)
'x' if n else 'y' | ('x' if n) ~ 'b' | 'b' in 'abc' ~ 1 in l ~ 'a' in d ~ 9 not in l ~ 'z' in z
s[0] ~ s[-1] ~ s[1:3] ~ s[::-1] ~ s[:-1] ~ s[9:] ~ u[3] ~ u[-2:] | l[1:] ~ l[::-1] ~ l[-2] ~ l[9] ~ l[::2] ~ l[5:1:-2]
d.a.x[2].k ~ d['a']['x'][0] ~ d.missing ~ d['items'] ~ m[0]['r'] ~ m.0.r | d.get('b') ~ d.get('q') ~ d.get('q', 4)
m[2].c is defined ~ m[0].c is defined ~ q is defined ~ q is undefined | s is string ~ d is mapping ~ l is sequence ~ d is iterable ~ i is number ~ t is number
i is odd ~ 6 is even ~ 6 is divisibleby 4 ~ t is true ~ t is boolean ~ i is integer ~ f is float ~ n is none ~ n is not none
'eq' is eq 'eq' ~ 3 is gt(2) ~ (3 is in [1, 3]) ~ t is sameas true ~ 1 is sameas true | s is callable ~ s.strip is callable
s|upper ~ s|lower ~ s|title ~ s|capitalize ~ 'don\\'t (see)'|title ~ 'hE'|capitalize | s.upper() ~ s.title() ~ 'a1b c'.title()
'  x y '|trim ~ '|' ~ 'xxyx'|trim('x') ~ ' a'.lstrip() ~ 'aab'.lstrip('a') ~ '\\u3000 b\\n'.strip() ~ '|' | n|trim
'a,b,,c'.split(',') ~ ' a  b '.split() ~ 'a b c'.split(' ', 1) ~ 'a-b-c'.rsplit('-', 1) ~ ''.split(',') ~ 'x\\ny\\r\\nz'.splitlines()
s.startswith('Ab') ~ s.endswith(('x', 'c')) ~ s.find('c') ~ s.find('q') ~ u.find('日') ~ 'aXbX'.rfind('X') ~ 'abab'.count('ab')
'a.b'.replace('.', '--') ~ 'aaa'|replace('a', 'b', 2) ~ 'ab'|replace('', '.') ~ 'abc'.removeprefix('a').removesuffix('c') | 'x'.join(['a', 'b'])
l|length ~ s|length ~ u|length ~ d|length ~ e|count ~ q|length | l|first ~ l|last ~ e|first ~ s|first
l|join(', ') ~ m|join('-', attribute='r') ~ e|join | l|sort ~ l|sort(reverse=true) ~ ['b', 'A']|sort ~ m[:2]|sort(attribute='c')|map(attribute='r')|list
l|reverse|list ~ s|reverse ~ l|min ~ l|max | m|map(attribute='c', default='?')|list ~ ['a', 'b']|map('upper')|list ~ ['a']|map('replace', 'a', 'z')|list
m|selectattr('r', 'equalto', 'u')|list|length ~ m|rejectattr('c', 'defined')|list|length ~ m|selectattr('c')|list|length | [0, 1, 2]|select|list ~ [1, 2, 3]|reject('odd')|list
d|items|list ~ d|dictsort ~ {'b': 2, 'a': 1}|dictsort ~ {'b': 1, 'a': 2}|dictsort(by='value') | {'x': 1}.items()|list ~ {'x': 1}.keys()|list ~ {'x': 1}.values()|list
d|tojson ~ u|tojson ~ '</x>"\\\\\\t\\u0001'|tojson ~ n|tojson ~ f|tojson ~ e|tojson ~ {}|tojson | {'b': [1, {}], 'a': []}|tojson(indent=2) ~ {'b': 1, 'a': 2}|tojson(sort_keys=true)
u|tojson(ensure_ascii=true) ~ [1, 2]|tojson(separators=(',', ':')) ~ {'a': 1}|tojson(indent=1, separators=('; ', '=')) ~ {1: 2, true: 3}|tojson | '🙂'|tojson(true)
'12'|int ~ ' 3.7 '|int ~ 'x'|int ~ 'x'|int(default=5) ~ 2.9|int ~ '2.5'|float ~ t|int ~ -3|abs ~ f|abs | q|default('z') ~ n|default('z') ~ z|default('z', true) ~ q|d
[n, t, 1.0, 'it\\'s', "q\\"", 'a\\nb', (1,), (), {'k': [1]}] | 'a' 'b' ~ "c" ~ 'tab\\tx\\x41\\u00e9\\101\\q' ~ '\\\\' | 'ab' * 2 ~ [1] + [2] ~ (1, 2) + (3,)
range(3)|list ~ range(1, 4)|list ~ range(5, 0, -2)|list | dict(a=1).a ~ namespace(b=2).b ~ namespace(b=2).c | 'a\\nb\\n\\nc'|indent ~ 'a\\nb'|indent(2, true) ~ '|' ~ 'a'|indent('> ', first=true)
-i|abs ~ (-i)|abs ~ +i ~ - -i ~ not not t | true ~ True ~ none ~ None ~ false | s ~ n ~ t ~ i ~ f ~ l ~ q | [1, 2,] ~ {'a': 1,} ~ (1) | s|string|safe|list
"""

# Whole templates: white space, scopes, loops
WHOLE = [
    "a\n  {% if t %}\n  b\n  {% endif %}\nc\n", "a\n  {%- if t -%}\n  b\n  {%- endif -%}\nc\n\n", "  {{ i }}  \n{#- c -#}  x {# d #}\n y",
    "{%+ if t %} x{%+ endif %}\n y", "\t{% set x = 1 %}\n{{ x }}\n{{- x -}}\n z", "a {{ '}}' }} {{ {'k': {'j': '%}'}}.k.j }}", "{{ i }}\r\n{% if t %}\r\nx\r{% endif %}",
    "{% if n %}1{% elif i == 7 %}2{% else %}3{% endif %}{% if n %}4{% else %}5{% endif %}", "{% if n %}\n{% endif %}\n\n  {% if t %}{% endif %}  \n",
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ x }},{% endfor %}",
    "{% for x in l %}[{{ loop.previtem }}|{{ loop.nextitem }}|{{ loop.cycle('a', 'b') }}]{% endfor %}", "{% for x in e %}x{% else %}none{% endfor %}{% for x in q %}x{% else %}none{% endfor %}",
    "{% for x in l if x != 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in u %}<{{ c }}>{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}{% for x in l %}{% if loop.index == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% set x = 1 %}{% for y in l %}{% set x = x + y %}{{ x }} {% endfor %}{{ x }}", "{% set o = namespace(x=0, seen=[]) %}{% for y in l %}{% set o.x = o.x + y %}{% set o.seen = o.seen + [y] %}{% endfor %}{{ o.x }}{{ o.seen }}",
    "{% if t %}{% set x = 5 %}{% endif %}{{ x }}{% for y in l %}{% for z in l %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set p = 1, 2 %}{{ p }}{% set w %} x{{ i }} {% endset %}[{{ w }}]{{ w|length }}",
    "{% macro m(a, b=2, c=a) %}{{ a }}-{{ b }}-{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m(b=4, a=5) }}{{ m() }}", "{% macro f(k) %}{% if k > 0 %}{{ k }}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(4) }}{{ f(2)|upper|length }}",
    "{% set g = 'out' %}{% macro m() %}{{ g }}{% set g = 'in' %}{{ g }}{% endmacro %}{{ m() }}{{ g }}{% set g = 'late' %}{{ m() }}", "{% for x in m %}{% set m = x.r %}{{ m }}{% endfor %}{{ m|length }}",
    "a{% generation %}b{{ u }}{% endgeneration %}c{%- generation -%} d {%- endgeneration %}", "{% for x in m %}{{ x.r }}{% generation %}{% set q = x.c %}{{ q }}{% endgeneration %}{{ q }}.{% endfor %}",
    "é{% if t %}日{% generation %}本{% endgeneration %}{% endif %}", "{{ raise_exception('no ' ~ i) }}", "{{ q.x }}", "{{ n.x }}|{{ n.x.y }}", "{{ 'a' + 1 }}", "{{ q + 1 }}", "{{ 1 < 'a' }}", "{{ l.x }}|{{ i.x }}", "{{ 1 // 0 }}",
    "{% set d.x = 1 %}", "{{ q() }}", "{{ s() }}", "{% for x in i %}{% endfor %}", "{% for a, b in l %}{% endfor %}", "{% if t %}", "{{ 1", "{% endif %}", "{{ }}", "{{ 1 2 }}", "{% set = 1 %}", "{{ 'a }}", "{# x", "{{ (1 }}", "{{ a b }}", "{{ s|upper(1) }}",
    "{% break %}", "{% for x in l %}{% macro b() %}{% break %}{% endmacro %}{% endfor %}", "{{ q|tojson }}", "{{ [q]|tojson }}", "{{ s.split('') }}", "{{ {}.x.y }}", "{{ i|length }}", "{{ [1, 'a']|sort }}", "{{ t[1:] }}", "{{ [q] }}", "{{ 007 }}", "{{ t is true is true }}", "{{ {[1]: 2} }}", "{{ s|replace('a') }}", "{{ s.startswith() }}", "{{ q is callable }}{{+ s }}",
    "{{ m|selectattr('')|list }}", "{{ q|dictsort }}", "{{ '-'.join([1]) }}",
]


def case(name, template, variables):
    one = {"name": name, "template": template, "variables": variables}
    try:
        more = {key: value for key, value in variables.items() if key not in ("messages", "tools", "documents", "add_generation_prompt")}
        text, spans = _render_with_assistant_indices(_compile_jinja_template(template), variables.get("messages"), variables.get("tools"),
                                                     None, variables.get("add_generation_prompt", False), **more)
        one["text"] = text
        one["spans"] = [[len(text[:at].encode()) for at in span] for span in spans]
    except Exception as error:  # whatever it is that Jinja or Python have against it
        one["fails"] = type(error).__name__
    return one


def main():
    cases = []
    for line in EXPRESSIONS.strip().split("\n"):
        # a " | " with spaces on both sides parts expressions; filters are written without
        for expression in line.split(" | "):
            cases.append(case(expression, "{{ " + expression + " }}", VALUES))
    cases += [case(template, template, VALUES) for template in WHOLE]
    for name, template in TEMPLATES.items():
        for kind, messages in CONVERSATIONS.items():
            for asks, tools in ((False, None), (True, [TOOL])):
                variables = {"bos_token": "<s>", "eos_token": "</s>", "messages": messages, "tools": tools, "documents": None,
                             "add_generation_prompt": asks}
                cases.append(case(f"{name}, {kind}", template, variables) | {"variables": [kind, asks]})
    templates = sorted({one["template"] for one in cases})
    for one in cases:
        one["template"] = templates.index(one["template"])
        if one["variables"] is VALUES:
            del one["variables"]
    made = {name: importlib.metadata.version(name) for name in ("transformers", "jinja2")}
    with open(OUT, "w", encoding="utf-8") as out:
        out.write('{"made_with": %s,\n"values": %s,\n"tool": %s,\n"conversations": %s,\n"templates": [\n' %
                  tuple(map(json.dumps, (made, VALUES, TOOL, CONVERSATIONS))))
        out.write(",\n".join(json.dumps(template) for template in templates))
        out.write('],\n"cases": [\n' + ",\n".join(json.dumps(one) for one in cases) + "]}\n")
    print(f"{OUT}: {len(cases)} cases, {sum('fails' in one for one in cases)} of which fail")


main()

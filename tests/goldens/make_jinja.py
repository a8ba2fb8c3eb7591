"""Writes jinja/cases.json with jinja2 as the oracle, set up as transformers sets it up."""
import json, os
from jinja2.sandbox import ImmutableSandboxedEnvironment
M = [dict(role="system", content="Be brief."), dict(role="user", content=" Hi 'x' "), dict(role="assistant", content="Yo\n")]
T = ["{{ 1 + 2 * 3 }} {{ 7 // 2 }} {{ -7 % 3 }} {{ 2 ** 3 }} {{ 'a' ~ 1 }}", "{{ messages[-1].content | trim }}|{{ messages[1:] | length }}",
  "{% for m in messages %}\n  {% if loop.first %}\nF\n  {% endif %}\n{{ m.role }}:{{ m['content'].strip() }}\n{% endfor %}\nend",
  "{%- for m in messages -%} {{ m.role }} {%- endfor -%}", "{% set ns = namespace(a=0) %}{% for i in range(4) %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}",
  "{% macro f(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ f(1) }} {{ f(1, b=3) }}", "{{ messages[0] | tojson }}", "{{ 'abc'[::-1] }} {{ [1,2,3][:2] }} {{ x is defined }} {{ x is none }}",
  "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m }}{% else %}no{% endfor %}", "{{ nope() }}", "{{ x.y }}", "{{ 'a,b'.split(',')[1] | upper }}", "{{ [3,1] | join('-') }}", "{{ none }} {{ true }} {{ 1.0 }}",
  "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\n\n' }}{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}{% elif message['role'] == 'system' %}{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"]
# Filters, each in the forms that templates use.
FILTERS = [
  "{{ [3,1,2] | sort | join(',') }} {{ ['b','A','c'] | sort | join }} {{ ['b','A','c'] | sort(case_sensitive=true) | join }} {{ [1,3,2] | sort(reverse=true) | join(',') }} {{ [3,1] | sort(true) | join }}",
  "{{ P | sort(attribute='n') | map(attribute='k') | join(',') }} {{ P | sort(attribute='o.z', reverse=true) | map(attribute='k') | join }} {{ P | sort(attribute='n,k') | map(attribute='k') | join }} {{ [1.5, 1, true] | sort | join(' ') }}",
  "{% for k, v in {'b':1,'A':3,'c':2} | dictsort %}{{ k }}={{ v }};{% endfor %}{% for k, v in {'b':1,'A':3,'c':2} | dictsort(true) %}{{ k }};{% endfor %}{% for k, v in {'b':1,'A':3,'c':2} | dictsort(by='value', reverse=true) %}{{ k }};{% endfor %}{% for k, v in {'b':1,'A':3} | dictsort(false, 'value') %}{{ k }};{% endfor %}",
  "{{ [3,1,2] | min }} {{ [3,1,2] | max }} {{ ['b','A'] | min }} {{ ['b','A'] | max }} {{ ['b','A'] | min(case_sensitive=true) }} {{ (P | max(attribute='n')).k }} {{ [] | min is defined }} {{ [1, 2.5] | max }}",
  "{{ 42.55 | round }} {{ 42.55 | round(1) }} {{ 42.55 | round(1, 'floor') }} {{ 42.1 | round(0, 'ceil') }} {{ 42 | round }} {{ 2.5 | round }} {{ 3.5 | round }} {{ -2.675 | round(2) }} {{ 1234.5 | round(-2) }} {{ 42.9 | round | int }} {{ 42.55 | round(method='ceil') }}",
  "{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb\n\nc' | indent(2, true) }}|{{ 'a\nb\n\nc' | indent(width=3, blank=true) }}|{{ 'a\r\nb\n' | indent('>>') }}|{{ '' | indent(first=true) }}",
  "{{ '<a href=\"x\">\\'&amp;</a>' | escape }} {{ '<' | e }} {{ 5 | e }}",
  "{{ [1,2,1,3,2] | unique | join(',') }} {{ ['a','A','b'] | unique | join }} {{ ['a','A','b'] | unique(case_sensitive=true) | join }} {{ P | unique(attribute='o.z') | map(attribute='k') | join(',') }} {{ [] | unique | list }}",
  "{% for g in P | groupby('o.z') %}{{ g.grouper }}:{% for p in g.list %}{{ p.k }}{% endfor %};{% endfor %}{% for z, items in P | groupby('o.z') %}{{ z }}={{ items | length }};{% endfor %}",
  "{% for w, l in [{'w':'b'},{'w':'A'},{'w':'B'},{'w':'a'}] | groupby('w') %}{{ w }}{{ l | map(attribute='w') | join }};{% endfor %}{% for w, l in [{'w':'b'},{'w':'B'}] | groupby('w', case_sensitive=true) %}{{ w }};{% endfor %}",
  "{{ [1,2,3] | sum }} {{ P | sum(attribute='n') }} {{ [1.5, 2] | sum }} {{ [1] | sum(start=10) }}",
  "{{ [1,'a'] | sort }}", "{{ {'a':1} | dictsort(by='x') }}", "{{ 'a' | round }}", "{{ [{}] | sort(attribute='q') | length }}", "{{ 1 | nosuch }}", "{{ 1.5 | round(1, 'up') }}",
  "{{ P | map(attribute='q', default='-') | join }} {{ P | map(attribute='o.z') | join }} {{ P | selectattr('o.z', 'equalto', 1) | map(attribute='k') | join }} {{ P | rejectattr('o') | list | length }}",
]
# What released templates do: tool lists, thinking stripped from history, roles checked, blocks of tools in JSON.
PUBLISHED = [
  "{%- if tools %}\n    {{- '<|im_start|>system\\n' }}\n    {%- if messages[0].role == 'system' %}\n        {{- messages[0].content + '\\n\\n' }}\n    {%- endif %}\n    {{- \"# Tools\\n<tools>\" }}\n    {%- for tool in tools %}\n        {{- \"\\n\" }}\n        {{- tool | tojson }}\n    {%- endfor %}\n    {{- \"\\n</tools><|im_end|>\\n\" }}\n{%- endif %}\n{%- for message in messages %}\n    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) %}\n        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n    {%- endif %}\n{%- endfor %}",
  "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}\n{%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n    {%- if ns.multi_step_tool and message.role == \"user\" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}\n        {%- set ns.multi_step_tool = false %}\n        {%- set ns.last_query_index = index %}\n    {%- endif %}\n{%- endfor %}{{ ns.last_query_index }}",
  "{% set content = 'a<think>\\nb\\n</think>\\n\\nc' %}{{ content.split('</think>')[-1].lstrip('\\n') }}|{{ content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') }}|{{ '</think>' in content }}",
  "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}{% endfor %}",
  "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
  "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
  "{%- if strftime_now is defined %}{{ 'dated' }}{%- else %}undated{%- endif %}{{ tools | tojson(indent=4) }}{{ tools[0].function.parameters.properties.items() | length }}",
  "{%- macro render_type(t) -%}\n{%- if t is mapping %}{{ t.type | default('any') }}{%- elif t is iterable and t is not string %}{{ t | join(' | ') }}{%- else %}{{ t }}{%- endif %}\n{%- endmacro -%}\n{%- for name, p in tools[0]['function']['parameters']['properties'].items() %}{{ name }}: {{ render_type(p.type) }}{{ ', ' if not loop.last }}{%- endfor %}",
  "{%- for message in messages %}{%- if message.role == 'system' %}{%- continue %}{%- endif %}{{ message.role }}{%- if message.role == 'assistant' %}{%- break %}{%- endif %}{%- endfor %}",
  "{% for m in messages %}{{ loop.cycle('a', 'b') if false else loop.revindex }}{% endfor %}{{ messages | map(attribute='role') | unique | list | length }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
]
T += FILTERS + PUBLISHED
TOOLS = [dict(type="function", function=dict(name="f", description="Ünïcode <b>", parameters=dict(type="object", properties=dict(a=dict(type="string"), b=dict(type=["integer", "null"])), required=["a"])))]
P = [dict(k="x", n=2, o=dict(z=1)), dict(k="y", n=1, o=dict(z=2)), dict(k="w", n=2, o=dict(z=1))]


def raise_exception(message):
    raise RuntimeError(message)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
env.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
env.globals.update(raise_exception=raise_exception, strftime_now=lambda f: 'now')
V, cases = dict(messages=M, tools=TOOLS, P=P, bos_token="<s>", eos_token="</s>", add_generation_prompt=True), []
for t in T:
    try: cases.append(dict(template=t, out=env.from_string(t).render(**V)))
    except Exception: cases.append(dict(template=t, error=True))
json.dump(dict(variables=V, cases=cases), open(os.path.dirname(os.path.abspath(__file__)) + "/jinja/cases.json", "w"), indent=1)

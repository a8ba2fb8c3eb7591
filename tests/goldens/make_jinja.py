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
env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
env.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
V, cases = dict(messages=M, bos_token="<s>", eos_token="</s>", add_generation_prompt=True), []
for t in T:
    try: cases.append(dict(template=t, out=env.from_string(t).render(**V)))
    except Exception: cases.append(dict(template=t, error=True))
json.dump(dict(variables=V, cases=cases), open(os.path.dirname(os.path.abspath(__file__)) + "/jinja/cases.json", "w"), indent=1)

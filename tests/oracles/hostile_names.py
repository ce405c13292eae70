"""Names and texts from strangers that would run a script, end one, or be filled in."""

SCRIPT = "</script><script>window.hacked = 1</script>"
IMAGE = "\"'><img src=x onerror='window.hacked=1'>"
TEMPLATE = "{{ 6 * 7 }}{% raw %}"
HOSTILE = (SCRIPT, IMAGE, TEMPLATE)

"""Mistakes planted in the very sources of cleaner and sink: the model must find each of them.

Each mistake is a replacement in one source file, found without regard to blanks. The file is compiled anew with the commands of
the build, linked in front of the archives, and the model is run until a schedule fails.
SPDX-License-Identifier: Apache-2.0
"""
import os
import re
import shlex
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("MODEL_BUILD", "build/dev"))
SCHEDULES = 600

# name: (file, text as it stands, text with the mistake)
PLANTED = {
    "no wanted check": ("services/sink-s3/batch.c", "return span->to <= wanted ? BATCH_DROP : BATCH_TAKE;",
                        "return span->to <= span->from ? BATCH_DROP : BATCH_TAKE;"),
    "no hole check": ("services/sink-s3/batch.c", "if (span->from > wanted) return BATCH_HOLE;", ""),
    "no base check": ("services/sink-s3/batch.c", "if (now == s->base) continue;", "if (now != INT64_MIN) continue;"),
    "an unknown outcome believed": ("services/sink-s3/landing.c",
                                    "if (rc) { back_off(l, LANDING_COMMITTING, rc, e, \"commit\"); return; }", "(void)e;"),
    "an unknown outcome as a new commit": ("services/sink-s3/landing.c", "back_off(l, LANDING_COMMITTING, rc, e, \"commit\");",
                                           "rnd_uuid(l->txn_id); back_off(l, LANDING_COMMITTING, rc, e, \"commit\");"),
    "marks before the commit": ("services/sink-s3/landing.c", "l->file = file->file; commit(l);",
                                "l->file = file->file; if (!l->opts.dead) copies_set(l->opts.copies, l->now->batch); commit(l);"),
    "clean offsets early": ("services/sink-s3/part.c", "p->hold >= 0 && p->hold < p->stored ? p->hold : p->stored;", "p->next;"),
    "dead table after the clean one": ("services/sink-s3/table.c",
                                       "if (batch_rejects(t->closing)) landing_put(t->opts.dead, t->closing, on_dead_landed, t); "
                                       "else on_dead_landed(t, 0);",
                                       "t->state = TABLE_CLEAN; landing_put(t->landing, t->closing, on_clean_first, t);"),
    "no heartbeat": ("services/cleaner/chain.c", "emit(c, c->confirmed, c->confirmed, false, &empty);", ""),
    "a chain that begins elsewhere than at 0": ("services/cleaner/raw_part.c", "return p->begin >= 0 ? p->begin : 0;",
                                                "return p->begin >= 0 ? p->begin : p->low;"),
    "raw offsets early": ("services/cleaner/raw_part.c", "int64_t confirmed = chain_confirmed(p->chain);",
                          "int64_t confirmed = chain_next(p->chain);"),
    "an offset of another topic believed": ("services/cleaner/raw_part.c", "&& !strcmp(parts[0].metadata, p->id);", ";"),
    "topics made anew not looked for": ("services/cleaner/looks.c", "if (strcmp(p->id, t->id))", "if (0)"),
    "a look that began before the letter": ("services/cleaner/letters.c", "kept->look = p->cleaner->looks;", "kept->look = 0;"),
}
# What a mistake needs beside its replacement, put in front of the function that holds it.
EXTRA = {
    "dead table after the clean one": ("void table_flush(struct table *t)",
                                       "static void on_clean_first(void *ctx, int rc) { struct table *t = ctx; "
                                       "if (rc) { on_clean_landed(ctx, rc); return; } "
                                       "if (batch_rejects(t->closing)) landing_put(t->opts.dead, t->closing, on_clean_landed, t); "
                                       "else on_clean_landed(t, 0); }\n"),
}


def loosely(text):
    """A pattern that finds the text whatever blanks and line ends the formatter has put in."""
    return r"\s*".join(re.escape(word) for word in re.findall(r"\w+|[^\w\s]", text))


def plant(name):
    path, was, wrong = PLANTED[name]
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        source = f.read()
    mended, n = re.subn(loosely(was), lambda _: wrong, source, count=1)
    assert n == 1, f"{path} no longer has: {was}"
    if name in EXTRA:
        before, text = EXTRA[name]
        assert before in mended
        mended = mended.replace(before, text + before, 1)
    return path, mended


def commands():
    out = subprocess.run(["ninja", "-C", BUILD, "-t", "commands", "model"], capture_output=True, text=True, check=True).stdout
    return [line for line in out.splitlines() if line.strip()]


@pytest.fixture(scope="session")
def build_lines():
    subprocess.run(["cmake", "--build", BUILD, "--target", "model"], check=True, stdout=subprocess.DEVNULL)
    return commands()


def build(name, lines, folder):
    path, text = plant(name)
    source = os.path.join(folder, os.path.basename(path))
    with open(source, "w", encoding="utf-8") as f:
        f.write(text)
    compile_line = next(line for line in lines if line.endswith(os.path.join(ROOT, path)) or f"-c {os.path.join(ROOT, path)}" in line)
    words = shlex.split(compile_line)
    planted = os.path.join(folder, "planted.o")
    words[words.index("-o") + 1] = planted
    words[words.index("-c") + 1] = source
    for flag in ("-MF", "-MT"):
        if flag in words:
            words[words.index(flag) + 1] = os.path.join(folder, "planted.d")
    words = [w for w in words if w != "-Werror"]
    done = subprocess.run(words, cwd=BUILD, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    link = next(line for line in lines if "-o bin/model" in line)
    words = shlex.split(link.replace(": &&", "").replace("&& :", ""))
    program = os.path.join(folder, "model")
    words[words.index("-o") + 1] = program
    words.insert(words.index("-o"), planted)
    # The archive still holds the sound object: the planted one comes first and defines everything it would be asked for.
    done = subprocess.run(words, cwd=BUILD, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.parametrize("name", PLANTED)
def test_planted(name, build_lines, tmp_path):
    program = build(name, build_lines, str(tmp_path))
    done = subprocess.run([program, "--schedules", str(SCHEDULES), "--seed", "1", "--until-failed"], capture_output=True, text=True,
                          timeout=600, check=False)
    assert done.returncode != 0, f"{name}: not found within {SCHEDULES} schedules\n{done.stdout}"
    assert done.stdout.startswith("schedule ") or "CHECK failed:" in done.stderr, f"{name}: the model itself broke\n{done.stderr[-2000:]}"
    print(f"{name}: {done.stdout.splitlines()[0] if done.stdout else done.returncode}")

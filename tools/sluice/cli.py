"""The command line: which words there are, and who does the work.

SPDX-License-Identifier: Apache-2.0
"""
import argparse
import os
import sys

from . import stack
from .stack import Trouble, Usage

TOP = """\
The local runner and operator's tool of Sluice: HTTP posts through real Kafka into Delta tables, and answers.

  ./sluice demo                      see it all happen once
  ./sluice up --detach               start the stack and leave it running
  ./sluice post --rows 1000          post generated posts
  ./sluice settle && ./sluice ask    wait until all is in the tables, and ask
  ./sluice down                      stop everything
"""


def _state(p):
    p.add_argument("--state", metavar="DIR", help="state folder (default: .run beside ./sluice, or $SLUICE_STATE)")


def _up_options(p):
    _state(p)
    p.add_argument("--user", default="demo", metavar="NAME", help="user id: prefix of topics and tables (demo)")
    p.add_argument("--bin", metavar="DIR", help="folder of the binaries (default: $SLUICE_BIN, build/release/bin, build/test/bin)")
    p.add_argument("--replicas", action="append", default=[], metavar="SERVICE=N", help="run N of a service; the others are SERVICE#2 …")
    p.add_argument("--set", action="append", default=[], dest="settings", metavar="SERVICE.OPTION=VALUE",
                   help="an option of a service (SERVICE#2 for one replica), a server property of kafka "
                        "(kafka.heap is its -Xmx), an option of redis; may be repeated")
    p.add_argument("--without", action="append", default=[], metavar="NAME", help="do not start this one")
    p.add_argument("--env", action="append", default=[], metavar="SERVICE.NAME=VALUE",
                   help="an environment variable for the first start of a service only")
    p.add_argument("--start-limit", type=float, default=90.0, metavar="S", help="give up when not ready by then (90)")


class Parser(argparse.ArgumentParser):
    """Ends with the exit code that all programs here have for a wrong command line."""

    def error(self, message):
        self.print_usage(sys.stderr)
        self.exit(Usage.code, "%s: %s\n" % (self.prog, message))


def parser():
    p = Parser(prog="sluice", description=TOP, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="command", metavar="COMMAND")
    up = sub.add_parser("up", help="start Kafka, Redis and the services, watch and restart them",
                        description="Starts the stack, waits until all of it is ready, and restarts what dies. Goes on where an "
                                    "earlier run on the same state folder was. Writes DIR/stack.json.")
    _up_options(up)
    up.add_argument("--detach", action="store_true", help="return when ready; the runner stays behind (logs/runner.log)")
    down = sub.add_parser("down", help="stop the stack, also what a killed runner left",
                          description="Stops the runner and everything it started, or what a killed one left behind. Data stays.")
    _state(down)
    status = sub.add_parser("status", help="readiness, rates, lag and restarts in one table",
                            description="Exit code 0 when all is ready and the runner lives, else 1.")
    _state(status)
    status.add_argument("--json", action="store_true", help="the same as JSON")
    settle = sub.add_parser("settle", help="wait until everything posted so far is in the tables",
                            description="Takes the end of the raw topics now and waits until the tables and the dead table have dealt "
                                        "with it and query-api answers from there. Exit code 1, with what is behind, when that takes "
                                        "too long; a hole ends it at once.")
    _state(settle)
    settle.add_argument("--timeout", type=float, default=60.0, metavar="S", help="how long to wait (60)")
    ask = sub.add_parser("ask", help="print answers as tables",
                         description="Prints one answer, or all nine. Parameters as query-api has them: top=1, from=2018, dedup=off, …")
    _state(ask)
    ask.add_argument("--all", action="store_true", help="all rows also when all questions are asked")
    ask.add_argument("name", nargs="?", help="the question; none: all of them")
    ask.add_argument("params", nargs="*", metavar="key=value")
    sub.add_parser("post", help="post with the emulator (all its options)", add_help=False)
    verify = sub.add_parser("verify", help="check ledgers against topics and tables with software that is not ours",
                            description="Compares the emulator's ledger with the raw topics (kafka-python) and the tables (deltalake), "
                                        "record by record, with the cleaning rules written a second time. Exit code 0 when nothing is "
                                        "wrong, 1 with a line for each finding.")
    _state(verify)
    verify.add_argument("--json", action="store_true", help="findings as JSON lines")
    verify.add_argument("--raw-only", action="store_true", help="compare the ledger with the raw topics, not the tables")
    verify.add_argument("--max-findings", type=int, default=200, metavar="N", help="print at most so many (200)")
    verify.add_argument("ledger", nargs="*", help="ledger files (sluice post … --ledger FILE); none: tables against topics only")
    repair = sub.add_parser("repair", help="end a hole: read again, or accept the loss",
                            description="Without arguments: lists the holes. --rewind sets the cleaner back to the position that the clean "
                                        "table wants; --accept writes off what cannot be read any more.")
    _state(repair)
    repair.add_argument("source", nargs="?", help="as settle names it: kafka:demo.pin:0:ID (demo.pin:0 will do)")
    how = repair.add_mutually_exclusive_group()
    how.add_argument("--rewind", action="store_const", const="rewind", dest="order")
    how.add_argument("--accept", action="store_const", const="accept", dest="order")
    demo = sub.add_parser("demo", help="up, post, settle, nine answers, stay until Ctrl-C",
                          description="Shows the whole way of a post once, from HTTP to the nine answers.")
    _up_options(demo)
    demo.add_argument("--rows", type=int, default=10000, metavar="N", help="posts to generate, three records each (10000)")
    demo.add_argument("--once", action="store_true", help="stop when the answers are printed")
    return p


def _options(a):
    from . import plan
    settings = [plan.parse_dotted(t, "--set") for t in a.settings]
    env = [plan.parse_dotted(t, "--env") for t in a.env]
    for name in a.without:
        if name not in stack.WAY:
            raise Usage("--without %s: there are %s" % (name, ", ".join(stack.WAY)))
    if not a.user or not all(c.isascii() and c.isalnum() or c in "_-" for c in a.user):
        raise Usage("--user %s: letters, digits, _ and - only" % a.user)
    return plan.Options(stack.state_dir(a.state), a.user, os.path.realpath(a.bin) if a.bin else None,
                        [plan.parse_replicas(t) for t in a.replicas], settings, a.without, env, a.start_limit)


def _detached_argv(a, options):
    argv = ["up", "--state", options.state, "--user", a.user, "--start-limit", str(a.start_limit)]
    if options.bin:
        argv += ["--bin", options.bin]
    for flag, values in (("--replicas", a.replicas), ("--set", a.settings), ("--without", a.without), ("--env", a.env)):
        for v in values:
            argv += [flag, v]
    return argv


def _post(argv):
    """All words but --state belong to the emulator."""
    state, rest, words = None, [], iter(argv)
    for word in words:
        if word == "--state":
            state = next(words, None)
            if not state:
                raise Usage("--state needs a folder")
        elif word.startswith("--state="):
            state = word[len("--state="):]
        elif word in ("-h", "--help"):
            print("usage: sluice post [--state DIR] [emulator's options]\n\nRuns sluice-emulator against the stack; "
                  "--gateway and --user are given. Its own options:\n", flush=True)
            program = os.path.join(stack.bin_dir(), "sluice-emulator")
            os.execv(program, [program, "--help"])
        else:
            rest.append(word)
    from . import demo
    return demo.post_command(stack.state_dir(state), rest)


def _run(argv):
    if argv[:1] == ["post"]:
        return _post(argv[1:])
    p = parser()
    a = p.parse_args(argv)
    if not a.command:
        p.print_help(sys.stderr)
        return Usage.code
    state = stack.state_dir(a.state)
    if a.command == "up":
        from . import runner
        options = _options(a)
        return runner.up_detached(options, _detached_argv(a, options)) if a.detach else runner.up(options)
    if a.command == "down":
        found = stack.down(state)
        print({"runner": "stopped", "left": "stopped what a killed runner had left", "": "nothing was running"}[found]
              + " in %s" % state)
        return 0
    if a.command == "status":
        from . import status
        return status.main(state, a.json)
    if a.command == "settle":
        from . import settle
        return settle.main(state, a.timeout)
    if a.command == "ask":
        from . import ask
        return ask.main(state, a.name, a.params, a.all)
    if a.command == "verify":
        from . import verify
        return verify.main(state, a.ledger, a.json, a.raw_only, a.max_findings)
    if a.command == "repair":
        from . import repair
        return repair.main(state, a.source, a.order)
    from . import demo
    if a.rows < 1:
        raise Usage("--rows must be at least 1")
    return demo.main(_options(a), a.rows, a.once)


def main(argv):
    try:
        return _run(argv)
    except Trouble as e:
        print("sluice: %s" % e, file=sys.stderr)
        return e.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as e:
        print("sluice: %s%s" % (e.filename + ": " if e.filename else "", e.strerror or e), file=sys.stderr)
        return 1

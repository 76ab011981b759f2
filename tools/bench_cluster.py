#!/usr/bin/env python3
"""Measures dispatchers and parallel layouts on emulated nodes with limited links.

    tools/bench_cluster.py BUILD [--only SECTION ...] [--repeats N]

Prints a table, and writes the rows to BUILD/bench-cluster.json in the form of BUILD/bench.json. Needs root: the nodes
are those of tools/cluster.sh. Exit code 77: this machine does not allow them, the reason is on standard error.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

TOOLS = os.path.dirname(os.path.abspath(__file__))
CANNOT = 77
# Slow enough that a dispatch waits for the links and for little else, on a machine of two cores.
SLOW = '200mbit'
# The shape of the published measurement; tokens of a rank are few enough that a dispatch at the slowest rate takes some
# seconds.
SHAPE = ['--hidden', '1024', '--experts', '256', '--topk', '8', '--dtype', 'bf16']
TOKENS = 512
# For overlap: a rank on each of two cores, so that what is overlapped does not compete for them, and links on which rows
# travel about as long as experts compute.
OVERLAP_NODES, OVERLAP_RANKS, OVERLAP_RATE = 2, 1, '300mbit'
OVERLAP_SHAPE = ['--seq', 1024, '--hidden', 512, '--ffn', 256, '--ep', 2]


def key(row):
    return row['name'], row['shape'], row['dtype']


class Table:
    """The rows measured so far: printed as they come, and kept in the file."""

    def __init__(self, path, kept):
        self.path = path
        self.rows = kept
        print('%-28s %-64s %10s %-4s %10s %6s' % ('name', 'shape', 'value', 'unit', 'bound', 'ratio'))

    def add(self, row):
        self.rows = [old for old in self.rows if key(old) != key(row)] + [row]
        bounded = row['bound'] > 0
        print('%-28s %-64s %10.4g %-4s %10s %6s' %
              (row['name'], row['shape'], row['value'], row['unit'], '%.4g' % row['bound'] if bounded else '-',
               '%.2f' % row['ratio'] if bounded else '-'), flush=True)
        partial = self.path + '.partial'
        with open(partial, 'w') as file:
            json.dump(self.rows, file, indent=1)
            file.write('\n')
        os.replace(partial, self.path)

    def derived(self, name, like, value, unit, bound=0.0):
        self.add(dict(like, name=name, value=value, unit=unit, bound=bound, ratio=value / bound if bound > 0 else 0.0))


class Cluster:
    """Runs the benchmark programs on emulated nodes."""

    def __init__(self, build, table, repeats):
        self.build = build
        self.table = table
        self.repeats = repeats

    def run(self, nodes, ranks, rate, program, flags, show=True):
        """The rows of a program, by name; their shapes say on which nodes and how fast the links were."""
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, 'rows.json')
            command = [os.path.join(TOOLS, 'cluster.sh'), '--nodes', str(nodes), '--ranks-per-node', str(ranks)]
            if rate:
                command += ['--rate', rate]
            command += ['--', os.path.join(self.build, program), *flags, '--json', path]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if done.returncode != 0:
                print(done.stdout, file=sys.stderr, end='')
                if done.returncode != CANNOT:
                    print('bench_cluster: this failed: ' + ' '.join(command), file=sys.stderr)
                sys.exit(done.returncode)
            with open(path) as file:
                rows = json.load(file)
        for row in rows:
            row['shape'] += ', %d x %d, %s' % (nodes, ranks, rate or 'no limit')
            if show:
                self.table.add(row)
        return {row['name']: row for row in rows}

    def dispatch(self, nodes, ranks, rate, flags=(), tokens=TOKENS):
        rows = self.run(nodes, ranks, rate, 'xmoe_dispatch_bench',
                        [*SHAPE, '--tokens', str(tokens), '--dispatch-only', '--repeats', str(self.repeats), *flags])
        flat, rbd = rows['dispatch.flat.forward'], rows['dispatch.rbd.forward']
        # What the links alone allow: the ratio of what must cross them.
        limit = rows['dispatch.flat.between']['value'] / rows['dispatch.rbd.between']['bound']
        self.table.derived('dispatch.flat_over_rbd', rbd, flat['value'] / rbd['value'], '', limit)
        wire = rows['dispatch.rbd.wire']
        self.table.derived('dispatch.rbd.wire_over_least', wire, wire['value'], 'MB',
                           rows['dispatch.rbd.between']['bound'])
        return rows

    def layout(self, nodes, ranks, rate, label, *flags):
        return self.run(nodes, ranks, rate, 'xmoe_layout_bench',
                        ['--label', label, '--steps', str(self.repeats), *map(str, flags)], show=False)


def links(cluster):
    """Flat, rbd and padded where the links dominate."""
    cluster.dispatch(4, 2, SLOW)


def rates(cluster):
    """Where rbd stops paying, and what auto takes there."""
    for rate in ['100mbit', '500mbit', '2gbit', '10gbit', '']:
        cluster.dispatch(4, 2, rate)


def few(cluster):
    """So few tokens that messages, not bytes, take the time."""
    for tokens in [4, 32]:
        cluster.dispatch(4, 2, '', tokens=tokens)


def nodes(cluster):
    """Fewer and more nodes."""
    for count in [2, 8]:
        cluster.dispatch(count, 2, SLOW)


def skew(cluster):
    """Some experts are more popular than others."""
    cluster.dispatch(4, 2, SLOW, ['--zipf', '1'])


def ssmb(cluster):
    """What an MoE block keeps at 1, 2, 4 ranks of tensor parallelism: sequence-sharded, and with experts cut (TED)."""
    whole = None
    for tp in [1, 2, 4]:
        for ted in [False, True] if tp > 1 else [False]:
            rows = cluster.layout(2, 4, '', 'ted' if ted else 'ssmb', '--tp', tp, '--ep', 8 // tp if ted else 8,
                                  *(['--ted'] if ted else []))
            kept = next(row for name, row in rows.items() if name.endswith('.moe_saved'))
            whole = whole or kept['value']
            bound = whole / tp
            cluster.table.add(dict(kept, bound=bound, ratio=kept['value'] / bound))


def recompute(cluster):
    """The same batch of eight sequences within less memory: by sharding the sequence, or by computing again."""
    for label, flags in [('whole', ['--tp', 2, '--ep', 4, '--ted']),
                         ('ssmb', ['--tp', 2, '--ep', 8]),
                         ('recompute', ['--tp', 2, '--ep', 4, '--ted', '--recompute', 'layer'])]:
        rows = cluster.layout(2, 4, '', 'memory.' + label, '--layers', 4, '--micro-batch', 2, *flags)
        for name in ['step', 'activations']:
            cluster.table.add(rows['memory.%s.%s' % (label, name)])


def zero(cluster):
    """The optimizer's state on a rank."""
    for stage in [0, 1]:
        rows = cluster.layout(2, 4, '', 'zero%d' % stage, '--ep', 4, '--zero', stage)
        cluster.table.add(rows['zero%d.optimizer' % stage])


def overlap(cluster):
    """Rows of a chunk travel while another is computed: a training step on a slow network."""
    for dispatcher in ['flat', 'rbd']:
        alone = None
        for chunks in [1, 2, 4]:
            label = 'overlap.%s.%d' % (dispatcher, chunks)
            step = cluster.layout(OVERLAP_NODES, OVERLAP_RANKS, OVERLAP_RATE, label, *OVERLAP_SHAPE, '--dispatcher',
                                  dispatcher, '--chunks', chunks)[label + '.step']
            alone = alone or step['value']
            cluster.table.add(dict(step, bound=alone, ratio=step['value'] / alone))


SECTIONS = {section.__name__: section for section in [links, rates, few, nodes, skew, ssmb, recompute, zero, overlap]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], epilog='; '.join(
        '%s: %s' % (name, section.__doc__) for name, section in SECTIONS.items()))
    parser.add_argument('build', help='build directory with xmoe_dispatch_bench and xmoe_layout_bench')
    parser.add_argument('--only', nargs='+', choices=SECTIONS, help='measure these; other rows of the file stay')
    parser.add_argument('--repeats', type=int, default=5, help='timed repetitions, of which the median counts (5)')
    arguments = parser.parse_args()
    path = os.path.join(arguments.build, 'bench-cluster.json')
    kept = []
    if arguments.only and os.path.exists(path):
        with open(path) as file:
            kept = json.load(file)
    table = Table(path, kept)
    cluster = Cluster(arguments.build, table, arguments.repeats)
    for name in arguments.only or SECTIONS:
        print('-- %s: %s' % (name, SECTIONS[name].__doc__), flush=True)
        SECTIONS[name](cluster)
    print('rows are in ' + path)


if __name__ == '__main__':
    main()

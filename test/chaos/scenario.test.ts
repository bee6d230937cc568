import { expect, test } from '@jest/globals';
import { CHANNELS, makeScenario, PROGRAMS } from './scenario.ts';

const SEEDS = Array.from({ length: 200 }, (_, n) => n + 1);

test('the same seed is the same scenario, and another seed another', () => {
  const made = (): readonly string[] => SEEDS.map((seed) => JSON.stringify(makeScenario(seed).steps));
  expect(made()).toEqual(made());
  expect(new Set(made()).size).toBe(SEEDS.length);
});

test('steps come in order and within the length, and everybody asks for something', () => {
  for (const seed of SEEDS) {
    const { steps } = makeScenario(seed, 3_000);
    const times = steps.map(({ atMs }) => atMs);
    expect(times).toEqual(times.toSorted((a, b) => a - b));
    expect(steps.at(-1)!.atMs).toBeLessThanOrEqual(3_000);
    const optOuts = steps.flatMap((step) => (step.kind === 'load' ? step.optOuts : []));
    expect(optOuts.filter(({ scopes, clients }) => scopes.length === 0 || clients < 1)).toEqual([]);
    expect(new Set(optOuts.flatMap(({ scopes }) => scopes))).toEqual(new Set(CHANNELS));
  }
});

test('200 seeds hold every kind of fault, every way of a line to be bad, and every kind of load', () => {
  const seen = new Set<string>();
  for (const seed of SEEDS) {
    for (const step of makeScenario(seed).steps) {
      if (step.kind === 'fault') {
        const { fault } = step;
        seen.add(fault.kind);
        if (fault.kind === 'line') seen.add(`${fault.line} ${fault.how}`);
        if (fault.kind === 'kill') seen.add(`kill ${fault.what}`);
        if (fault.kind === 'wipe' || fault.kind === 'tamper') seen.add(`${fault.store} ${fault.how}`);
      } else if (step.kind === 'load') {
        const { optOuts } = step;
        if (optOuts.length >= 40) seen.add('bulk');
        if (optOuts.some(({ keyed, clients }) => keyed && clients > 1)) seen.add('one key, several clients');
        if (optOuts.some(({ keyed, clients }) => !keyed && clients > 1)) seen.add('no key, several clients');
        if (optOuts.length > 2 && new Set(optOuts.map(({ who }) => who)).size === 1) seen.add('race');
      }
    }
  }
  const lines = ['api', 'crm', 'sessions', 'mail'].flatMap((line) =>
    ['refuse', 'hang', 'cut_request', 'lose_answer', 'slow'].map((how) => `${line} ${how}`),
  );
  const changes = ['forget', 'resurrect', 'older', 'delete'].flatMap((how) => [
    `crm ${how}`,
    `sessions ${how}`,
  ]);
  expect([...seen].sort()).toEqual(
    [
      ...lines,
      ...changes,
      'crm truncate',
      ...['kill', 'kill abide', 'kill database', 'kill both'],
      ...[
        'line',
        'wipe',
        'tamper',
        'back_up',
        'restore',
        'pause',
        'long_transaction',
        'drop_slots',
        'clock',
        'disk_full',
        'back_up_ledger',
        'replace_pepper',
      ],
      ...['bulk', 'race', 'one key, several clients', 'no key, several clients'],
    ].sort(),
  );
});

test('over Kafka any of its processes is killed, any clock jumps, and all else is as it is embedded', () => {
  const killed = new Set<string>();
  const clocks = new Set<string>();
  for (const seed of SEEDS) {
    const [embedded, kafka] = (['pgoutput', 'kafka'] as const).map((source) =>
      // Over Kafka several programs would share the disk, and topics would have to go back with the ledger.
      makeScenario(seed, 3_000, source).steps.filter(
        (step) => step.kind !== 'fault' || !['disk_full', 'back_up_ledger'].includes(step.fault.kind),
      ),
    );
    const others = embedded!.map((step, n) => {
      const over = kafka![n]!;
      if (step.kind !== 'fault' || over.kind !== 'fault') return over;
      const { fault } = over;
      if (fault.kind === 'kill') killed.add(fault.what);
      if (fault.kind === 'clock') clocks.add(fault.of);
      return ['kill', 'clock'].includes(step.fault.kind) ? { ...step, atMs: over.atMs } : over;
    });
    expect(others).toEqual(embedded);
  }
  expect([...killed].sort()).toEqual([...PROGRAMS].sort());
  expect([...clocks].sort()).toEqual(['crm', 'mail', 'serve', 'sessions']);
});

test('whose mind changes has opted out before consenting, and nobody else speaks for them', () => {
  for (const seed of SEEDS) {
    const minds = makeScenario(seed).steps.filter((step) => step.kind === 'minds_changed');
    expect(minds.length).toBeGreaterThan(3);
    expect(new Set(minds.map(({ who }) => who)).size).toBe(minds.length);
    for (const { words } of minds) {
      const before = words.slice(
        0,
        words.findIndex(({ says }) => says === 'yes'),
      );
      expect(before.map(({ says }) => says)).toContain('no');
      for (const { scopes } of words) expect(scopes.length).toBeGreaterThan(0);
    }
  }
});

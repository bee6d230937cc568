import { readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { createMetrics, METRIC } from '../../../api/ops/metrics.ts';
import { ROOMS } from '../../../api/guard/rooms.ts';
import type { LagReport } from '../../../ledger/contract/propagation-lag.ts';
import { serveStub } from '../serving.ts';
import { ID, LAG } from '../stub-ledger.ts';

const [CRM] = LAG.stores;
const render = async (metrics: ReturnType<typeof createMetrics>, lag: Partial<LagReport> | Error = {}) => {
  const text = await metrics.render(() =>
    lag instanceof Error ? Promise.reject(lag) : Promise.resolve({ ...LAG, ...lag }),
  );
  return text.split('\n').filter((line) => line.startsWith('abide_'));
};
/** prom-client spells it Nan, which Prometheus reads as well. */
const gauges = (lines: readonly string[]) =>
  lines
    .filter((line) => /^abide_(outstanding|oldest|store_status|redriven)/.test(line))
    .map((line) => line.replace(/ nan$/i, ' NaN'));

type Sample = { readonly labels: Readonly<Record<string, string>>; readonly value: number };
type Family = { readonly type: string; readonly samples: Sample[] };

/** Prometheus' text format 0.0.4, strictly: throws for anything that it does not allow. */
function parse(text: string): Map<string, Family> {
  const families = new Map<string, Family>();
  const seen = new Set<string>();
  let helped: string | undefined;
  let last: string | undefined;
  if (!text.endsWith('\n')) throw new Error('the last line has no end');
  for (const line of text.slice(0, -1).split('\n')) {
    const [, about, of, rest] = /^# (HELP|TYPE) ([a-zA-Z_:][\w:]*) (.+)$/.exec(line) ?? [];
    if (about === 'HELP') {
      helped = of;
    } else if (about === 'TYPE') {
      if (helped !== of || families.has(of!) || !/^(counter|gauge|histogram|summary)$/.test(rest!))
        throw new Error(line);
      families.set((last = of!), { type: rest!, samples: [] });
    } else if (line !== '') {
      const [, name, labelled = '', number] =
        /^([a-zA-Z_:][\w:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\]|\\[\\"n])*",?)*)\})? ([+-]?(?:[\d.]+(?:e[+-]?\d+)?|inf|nan))$/i.exec(
          line,
        ) ?? [];
      const family = last === undefined ? undefined : families.get(last);
      const suffixes =
        family?.type === 'histogram'
          ? '_(?:bucket|sum|count)'
          : family?.type === 'summary'
            ? '(?:_sum|_count)?'
            : '';
      // All samples of a family must stand below its TYPE, and none may be there twice.
      if (name === undefined || !new RegExp(`^${last}${suffixes}$`).test(name)) throw new Error(line);
      const labels = Object.fromEntries(
        [...labelled.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, value]) => [key!, value!]),
      );
      const series = `${name}${JSON.stringify(Object.entries(labels).sort())}`;
      if (seen.has(series)) throw new Error(`twice: ${line}`);
      seen.add(series);
      family!.samples.push({ labels, value: Number(number!.replace(/inf/i, 'Infinity')) });
    }
  }
  return families;
}

test('the gauges are what the lag says now', async () => {
  expect(gauges(await render(createMetrics()))).toEqual([
    'abide_outstanding{store="crm"} 12',
    'abide_oldest_outstanding_age_seconds{store="crm"} 31.2',
    'abide_store_status{store="crm",status="ok"} 0',
    'abide_store_status{store="crm",status="paused"} 0',
    'abide_store_status{store="crm",status="backfilling"} 0',
    'abide_store_status{store="crm",status="late"} 1',
    'abide_store_status{store="crm",status="unknown"} 0',
    'abide_redriven_total{source="kafka"} 3',
  ]);
});

test('what is not known is NaN and unknown, never zero, and no store disappears with it', async () => {
  const metrics = createMetrics();
  await render(metrics);
  expect(gauges(await render(metrics, new Error('database away')))).toEqual([
    'abide_outstanding{store="crm"} NaN',
    'abide_oldest_outstanding_age_seconds{store="crm"} NaN',
    'abide_store_status{store="crm",status="ok"} 0',
    'abide_store_status{store="crm",status="paused"} 0',
    'abide_store_status{store="crm",status="backfilling"} 0',
    'abide_store_status{store="crm",status="late"} 0',
    'abide_store_status{store="crm",status="unknown"} 1',
    'abide_redriven_total{source="kafka"} 3',
  ]);
  const unheard = {
    ...CRM!,
    status: 'unknown' as const,
    outstanding: null,
    oldest_outstanding_seconds: null,
  };
  expect(gauges(await render(metrics, { stores: [unheard] }))).toContain(
    'abide_outstanding{store="crm"} NaN',
  );
});

test('a store that was retired is no longer shown', async () => {
  const metrics = createMetrics();
  await render(metrics);
  expect(gauges(await render(metrics, { stores: [], sources: [] }))).toEqual([]);
});

test('sources of one kind are one count', async () => {
  const [kafka] = LAG.sources;
  expect(gauges(await render(createMetrics(), { stores: [], sources: [kafka!, kafka!] }))).toEqual([
    'abide_redriven_total{source="kafka"} 6',
  ]);
});

test('what was settled is counted by outcome, and timed for each channel of its store', async () => {
  const metrics = createMetrics();
  metrics.settled(
    'crm',
    ['email', 'sms'],
    [
      { outcome: 'verified', latencyMs: 4, carriedBy: 'stream' },
      { outcome: 'verified', latencyMs: 40, carriedBy: 'retry' },
      { outcome: 'superseded', latencyMs: 4, carriedBy: 'stream' },
      // Recorded an hour before the store was added: nothing took an hour to propagate.
      { outcome: 'verified', latencyMs: 3_600_000, carriedBy: 'backfill' },
    ],
  );
  const lines = await render(metrics);
  expect(lines).toEqual(
    expect.arrayContaining([
      'abide_acknowledgements_total{store="crm",outcome="verified"} 3',
      'abide_acknowledgements_total{store="crm",outcome="superseded"} 1',
      'abide_propagation_duration_seconds_bucket{le="0.005",store="crm",channel="email"} 2',
      'abide_propagation_duration_seconds_bucket{le="0.05",store="crm",channel="sms"} 3',
      'abide_propagation_duration_seconds_count{store="crm",channel="sms"} 3',
    ]),
  );
});

test('requests are timed by method, route and status, and no label is what a client wrote', async () => {
  await using api = await serveStub();
  await api.send('GET', `/v1/opt-outs/${ID}`, { key: 'shop' });
  await api.send('GET', `/v1/opt-outs/ada@example.com`, { key: 'shop' });
  await api.send('GET', '/ada@example.com');
  await api.send('DELETE', '/v1/opt-outs/ada@example.com');
  await api.send('SEARCH', '/ada@example.com');
  await api.send('POST', '/v1/opt-outs', { key: 'shop', body: '{' });
  const { text, headers } = await api.send('GET', '/metrics');
  expect([...parse(text).keys()]).toEqual(expect.arrayContaining(Object.values(METRIC)));
  expect(headers['content-type']).toBe('text/plain; version=0.0.4; charset=utf-8');
  const counts = text.split('\n').filter((line) => line.startsWith(`${METRIC.requests}_count`));
  expect(counts.sort()).toEqual([
    'abide_http_request_duration_seconds_count{method="DELETE",route="none",status="405"} 1',
    'abide_http_request_duration_seconds_count{method="GET",route="/v1/opt-outs/:id",status="200"} 1',
    'abide_http_request_duration_seconds_count{method="GET",route="/v1/opt-outs/:id",status="404"} 1',
    'abide_http_request_duration_seconds_count{method="GET",route="none",status="404"} 1',
    'abide_http_request_duration_seconds_count{method="POST",route="/v1/opt-outs",status="400"} 1',
    'abide_http_request_duration_seconds_count{method="other",route="none",status="404"} 1',
  ]);
  expect(text).not.toContain('ada');
});

// `increase(abide_budget_exhausted_total[5m]) > 0` missed the first refusal of a process: the series began with it, at 1.
test('what is alarmed on by its increase is there from the start, at 0, for whatever it may be counted by', async () => {
  const families = parse(await createMetrics().render(() => Promise.resolve(LAG)));
  const samplesOf = (name: string): Record<string, number> =>
    Object.fromEntries(
      families.get(name)!.samples.map(({ labels, value }) => [Object.values(labels).join(), value]),
    );
  expect(samplesOf(METRIC.limited)).toEqual({ writes: 0, checks: 0, reads: 0, failed_authentications: 0 });
  expect(samplesOf(METRIC.budgets)).toEqual({ opt_out: 0, grant: 0, check: 0 });
  expect(samplesOf(METRIC.refused)).toEqual({
    ...Object.fromEntries(Object.keys(ROOMS).map((room) => [room, 0])),
    bodies: 0,
  });
  // Every alarm of that kind in the docs must be on one of them, or on a count of the ledger's own.
  const alarms = [
    ...readFileSync('docs/operations.md', 'utf8').matchAll(/^\|.*(?:increase|rate)\((abide_\w+)/gm),
  ];
  expect(alarms.map(([, name]) => name)).toEqual([METRIC.redriven, METRIC.budgets, METRIC.limited]);
});

test('scrapes at the same time do not mix', async () => {
  const metrics = createMetrics();
  const texts = await Promise.all(
    Array.from({ length: 10 }, (_, n) =>
      metrics.render(async () => {
        await new Promise((resolve) => setImmediate(resolve));
        return { ...LAG, stores: [{ ...CRM!, outstanding: n }] };
      }),
    ),
  );
  for (const text of texts) expect(text.match(/^abide_outstanding\{/gm)).toHaveLength(1);
});

test('the API goes on being measured while the ledger is away', async () => {
  await using api = await serveStub({ lag: () => Promise.reject(new Error('database away')) });
  const { status, text } = await api.send('GET', '/metrics');
  expect([status, text.includes('process_cpu_seconds_total')]).toEqual([200, true]);
});

test('docs/operations.md explains every metric, and none that there is not', () => {
  const page = readFileSync('docs/operations.md', 'utf8');
  const explained = [...page.matchAll(/^\| `(abide_[a-z_]+)\{/gm)].map(([, name]) => name);
  expect(explained).toEqual(Object.values(METRIC));
  const histograms = Object.values(METRIC).flatMap((name) => [name, `${name}_count`]);
  // Except database roles, which stand there with the same beginning.
  const named = page.match(/\babide_(?!owner\b|api\b|replication\b)[a-z_]+/g) ?? [];
  expect(named.filter((name) => !histograms.includes(name))).toEqual([]);
});

test('docs/operations.md explains every field of the lag, and every status', () => {
  const page = readFileSync('docs/operations.md', 'utf8');
  const rows = [...page.matchAll(/^\| `([a-z_]+)` +\|/gm)].map(([, name]) => name!);
  const inTheTitle = ['status', 'sources', 'stores', 'store', 'connector', 'task'];
  const fields = [LAG, LAG.sources[0]!, CRM!].flatMap((part) => Object.keys(part));
  expect(fields.filter((name) => !rows.includes(name) && !inTheTitle.includes(name))).toEqual([]);
  expect(['unknown', 'late', 'backfilling', 'paused', 'ok'].filter((name) => !rows.includes(name))).toEqual(
    [],
  );
});

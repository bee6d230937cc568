// The ledger's long poll as a change source: for workers that reach nothing but HTTP. A sequence number may commit after
// a higher one, so the tail alone would miss it: every second the poll begins at the start again, and what was delivered
// already is not delivered twice.
import { setTimeout as delay } from 'node:timers/promises';
import type { SourceReport, SourceStatus } from '../suppression/acknowledgement.ts';
import type { Decision } from '../suppression/decision.ts';
import type { ChangeListener, ChangeSource } from './change-source.ts';

const PAGE = 500;
const FROM_START_MS = 1_000;
const SETTLING_MS = 50;
const RETRY_MS_MAX = 5_000;
const REMEMBERED = 50_000;

type Page = {
  readonly decisions: readonly (Decision & { readonly lane: 'live' | 'backfill' })[];
  readonly next: string | undefined;
};

export type HttpFeed = (ask: {
  readonly after: string | undefined;
  readonly limit: number;
  readonly waitMs: number;
  readonly signal: AbortSignal;
}) => Promise<Page>;

/** `feed` is the API's outstanding decisions of one store. Never gives up. Back-fill is left to the worker's own feed. */
export function createHttpSource({ feed }: { feed: HttpFeed }): ChangeSource {
  const stopping = new AbortController();
  const delivered = new Set<number>();
  let status: SourceStatus = 'unknown';
  let position: string | undefined;
  let heardAt: number | undefined;
  let running: Promise<void> = Promise.resolve();

  function fresh(page: Page): Decision[] {
    const live = page.decisions.filter(({ seq, lane }) => lane === 'live' && !delivered.has(seq));
    for (const { seq } of live) {
      if (delivered.size >= REMEMBERED) delivered.delete(delivered.values().next().value!);
      delivered.add(seq);
    }
    return live;
  }

  async function run(listener: ChangeListener): Promise<void> {
    for (let failures = 0; !stopping.signal.aborted;) {
      try {
        await poll(listener);
        failures = 0;
        if (status !== 'ok') {
          status = 'ok';
          listener.live();
        }
      } catch (error) {
        if (stopping.signal.aborted) return;
        failures += 1;
        if (status !== 'down') listener.down(error instanceof Error ? error.name : 'failed');
        status = 'down';
        const pauseMs = Math.min(RETRY_MS_MAX, 100 * 2 ** failures) * (0.5 + Math.random() / 2);
        await delay(pauseMs, undefined, { signal: stopping.signal }).catch(() => undefined);
      }
    }
  }

  /** One look from the start, for what committed late, then the tail for a second, held open while nothing is due. */
  async function poll(listener: ChangeListener): Promise<void> {
    await hand(await feed({ after: undefined, limit: PAGE, waitMs: 0, signal: stopping.signal }), listener);
    const until = performance.now() + FROM_START_MS;
    for (let left = FROM_START_MS; left > 0; left = until - performance.now()) {
      const after = position === undefined ? undefined : `live:${position}`;
      const page = await feed({ after, limit: PAGE, waitMs: left, signal: stopping.signal });
      const handed = await hand(page, listener);
      // An answer that holds nothing new (what is back-filled, what is under way) was not held by the server either.
      if (handed === 0 && page.decisions.length > 0)
        await delay(SETTLING_MS, undefined, { signal: stopping.signal });
    }
  }

  async function hand(page: Page, listener: ChangeListener): Promise<number> {
    heardAt = performance.now();
    const batch = fresh(page);
    if (batch.length === 0) return 0;
    position = String(Math.max(Number(position ?? 0), ...batch.map(({ seq }) => seq)));
    await listener.decisions(batch);
    return batch.length;
  }

  return {
    start: (listener) => {
      running = run(listener);
    },
    report: (): SourceReport => ({
      kind: 'http',
      status,
      position,
      positionAgeSeconds:
        heardAt === undefined ? undefined : Math.round((performance.now() - heardAt) / 100) / 10,
      parked: 0,
    }),
    [Symbol.asyncDispose]: async () => {
      stopping.abort();
      await running.catch(() => undefined);
    },
  };
}

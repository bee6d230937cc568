// The ledger's long poll as a change source: for workers that reach nothing but HTTP. A sequence number may commit after a higher
// one, so the tail alone would miss it: every second the poll begins at the start again, and what was delivered already is not
// delivered twice.
import { setTimeout as delay } from 'node:timers/promises';
import type { SourceReport, SourceStatus } from '../suppression/acknowledgement.ts';
import type { Decision } from '../suppression/decision.ts';
import { AbideError } from '../suppression/errors.ts';
import { rememberLast } from '../suppression/remember-last.ts';
import type { ChangeListener, ChangeSource } from './change-source.ts';

/** The most that the API gives at once; the tail takes less, since back-filled decisions come along in vain. */
const LOOK_PAGE = 2_000;
const TAIL_PAGE = 200;
/** A worker holds no more than this in hand: with more outstanding it reads the ledger itself. */
const LOOKED_MAX = 10_000;
const FROM_START_MS = 1_000;
const SETTLING_MS = 50;
const RETRY_MS_MAX = 5_000;
/** Silence beyond what the API was asked to wait. It counts as down before missing decisions count as lost (worker.ts). */
const SILENT_MS_MAX = 3_000;
const REMEMBERED = 50_000;

type Page = {
  readonly decisions: readonly (Decision & {
    readonly lane: 'live' | 'backfill';
    readonly attempts: number;
  })[];
  /** Sequence numbers of rows that could not be read. */
  readonly unreadable?: readonly number[];
  readonly next: string | undefined;
};

export type HttpFeed = (ask: {
  readonly after: string | undefined;
  readonly limit: number;
  readonly waitMs: number;
  readonly signal: AbortSignal;
}) => Promise<Page>;

/**
 * `feed` gives the API's outstanding decisions of one store. The source never gives up. Back-fill and retries are left to the
 * worker's own feed.
 */
export function createHttpSource({
  feed,
  silentMsMax = SILENT_MS_MAX,
}: {
  feed: HttpFeed;
  silentMsMax?: number;
}): ChangeSource {
  const stopping = new AbortController();
  const delivered = rememberLast<number, true>(REMEMBERED);
  const parked = new Set<number>();
  let status: SourceStatus = 'unknown';
  let position: number | undefined;
  let heardAt: number | undefined;
  let running: Promise<void> = Promise.resolve();

  function ask(of: { after: string | undefined; limit: number; waitMs: number }): Promise<Page> {
    const silent = AbortSignal.timeout(Math.ceil(of.waitMs + silentMsMax));
    return feed({ ...of, signal: AbortSignal.any([stopping.signal, silent]) });
  }

  function fresh(page: Page): Decision[] {
    const live = page.decisions.filter(
      ({ seq, lane, attempts }) => lane === 'live' && attempts === 0 && !delivered.has(seq),
    );
    for (const { seq } of live) delivered.set(seq, true);
    for (const seq of page.unreadable ?? []) if (parked.size < REMEMBERED) parked.add(seq);
    return live;
  }

  async function run(listener: ChangeListener): Promise<void> {
    for (let failures = 0; !stopping.signal.aborted;) {
      try {
        await lookFromStart(listener);
        failures = 0;
        if (status !== 'ok') {
          status = 'ok';
          listener.live();
        }
        await followTail(listener);
      } catch (error) {
        if (stopping.signal.aborted) return;
        failures += 1;
        if (status !== 'down') listener.down(error instanceof AbideError ? error.code : 'connection lost');
        status = 'down';
        const pauseMs = Math.min(RETRY_MS_MAX, 100 * 2 ** failures) * (0.5 + Math.random() / 2);
        await delay(pauseMs, undefined, { signal: stopping.signal }).catch(() => undefined);
      }
    }
  }

  /** Reads all that is outstanding up to where the tail is: what committed late is among it. */
  async function lookFromStart(listener: ChangeListener): Promise<void> {
    let after: string | undefined;
    for (let looked = 0; looked < LOOKED_MAX; looked += LOOK_PAGE) {
      const page = await ask({ after, limit: LOOK_PAGE, waitMs: 0 });
      await hand(page, listener);
      after = page.next;
      const seq = /^live:(\d+)$/.exec(after ?? '')?.[1];
      if (seq === undefined || position === undefined || Number(seq) >= position) return;
    }
  }

  /** For a second; a poll is held open while nothing is due. */
  async function followTail(listener: ChangeListener): Promise<void> {
    const until = performance.now() + FROM_START_MS;
    for (let left = FROM_START_MS; left > 0; left = until - performance.now()) {
      const after = position === undefined ? undefined : `live:${position}`;
      const page = await ask({ after, limit: TAIL_PAGE, waitMs: left });
      const handed = await hand(page, listener);
      // The server does not hold back an answer with nothing new in it (back-fill, what is under way): pause here instead.
      if (handed === 0 && page.decisions.length + (page.unreadable?.length ?? 0) > 0)
        await delay(SETTLING_MS, undefined, { signal: stopping.signal });
    }
  }

  async function hand(page: Page, listener: ChangeListener): Promise<number> {
    heardAt = performance.now();
    const batch = fresh(page);
    const seqs = [...batch.map(({ seq }) => seq), ...(page.unreadable ?? [])];
    if (seqs.length > 0) position = Math.max(position ?? 0, ...seqs);
    if (batch.length > 0) await listener.decisions(batch);
    return batch.length;
  }

  return {
    start: (listener) => {
      running = run(listener);
    },
    report: (): SourceReport => ({
      kind: 'http',
      status,
      position: position === undefined ? undefined : String(position),
      positionAgeSeconds:
        heardAt === undefined ? undefined : Math.round((performance.now() - heardAt) / 100) / 10,
      parked: parked.size,
    }),
    [Symbol.asyncDispose]: async () => {
      stopping.abort();
      await running.catch(() => undefined);
    },
  };
}

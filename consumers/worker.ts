// Carries decisions to one store: apply, read back, report. It is told what to carry by a stream while there is one and by
// the ledger always; it knows neither the ledger's tables nor what kind of store it serves.
//
//   live queue ─┐
//               ├─▶ up to `concurrent` batches: apply ▶ read back ─▶ report queue ▶ ledger
//   back-fill ──┘            └─ failed: try again later, with the same attempts
//
// A decision is in hand from when it is queued until its report was taken, so that stream and ledger together do not carry
// it twice. Everything is bounded: beyond HELD_MAX the stream is not listened to and the ledger gives the rest.
import { setTimeout as delay } from 'node:timers/promises';
import type { Tracer } from '@opentelemetry/api';
import { Item, TryLater } from '../connectors/contract/connector.ts';
import { untilAborted } from '../connectors/contract/until-aborted.ts';
import type {
  ApplyOutcome,
  Connector,
  Held,
  Log,
  Store,
  SubjectKey,
} from '../connectors/contract/connector.ts';
import { compareHeld, differenceOf, isDue, mustClear, mustHold } from '../suppression/acknowledgement.ts';
import type {
  Acknowledgement,
  CarriedBy,
  SourceReport,
  StoreObservation,
} from '../suppression/acknowledgement.ts';
import type { Decision } from '../suppression/decision.ts';
import { AbideError, causeCode } from '../suppression/errors.ts';
import { rememberLast } from '../suppression/remember-last.ts';
import { heldAs, isScope } from '../suppression/scope.ts';
import { open as unseal } from '../suppression/seal.ts';
import { Address } from '../suppression/subject.ts';
import type { LedgerAccess, OutstandingDecision, OutstandingPage } from './ledger-access.ts';
import { listOwnAlways } from './list-own.ts';
import { failureCode, nextStep, retryDelayMs } from './next-step.ts';
import { reconcileAlways } from './reconcile.ts';
import { traced } from './trace.ts';

/** Most decisions in hand: 10,000 of about a kilobyte each. */
const HELD_MAX = 10_000;
const PAGE = 2_000;
/**
 * Most of a back-fill in hand: beside it is room for what is live, and a reading that came so far ends, since each begins with
 * what is live and what is to be tried again.
 */
const BACKFILL_MAX = 3 * PAGE;
/** Tried again at a time, where the store does not say how many it takes in a second: a live decision waits for no more. */
const RETRIES_MAX = 200;
/** Most acknowledgements of one report, and most names of scopes in them: the ledger takes two megabytes. */
const REPORT_MAX = 1_000;
const REPORT_SCOPES_MAX = 20_000;
/** Reports waiting beyond this stop new batches: a ledger that does not answer must not fill our memory. */
const REPORTS_WAITING_MAX = 5_000;
/** Most scopes that the ledger takes of one subject. */
const SCOPES_MAX = 1_000;
const SIGN_OF_LIFE_MS = 1_000;
const POLL_MS = 250;
const SWEEP_MS = 1_000;
/** How often it is looked whether the store is still the one that it was. */
const OBSERVE_MS = 2_000;
/** A live worker that has not seen a decision on the stream by then takes it from the ledger, and that is an alarm. */
const REDRIVE_AFTER_MS = 5_000;
const STORE_DOWN_MS_MAX = 5_000;
const CALL_MS_MAX = 5_000;
/** Listing may take a store a pass over all that it holds. */
const LIST_MS_MAX = 60_000;
const REPORT_MS_MAX = 10_000;
/** As in the ledger: from this attempt on a failure is parked there. */
const PARKED_AFTER = 5;
/** A store that asks to be left alone for longer is looked at again by then, and left alone again. */
const PAUSE_MS_MAX = 60_000;
/**
 * The stream may be a moment ahead of the ledger: it carries a commit as soon as that is on disk, and other sessions see it
 * only after that. So often is a report said again that the ledger knows nothing of, the first time after so long.
 */
const UNSEEN_MAX = 6;
const UNSEEN_MS = 10;
/** What was in hand lately: when the ledger lists it again, the stream did not lose it. */
const REMEMBERED = 50_000;
/** After two failures a batch is halved, so that one item that the store chokes on holds up nobody else. */
const TOGETHER_MAX = 2;

export type WorkerStore = {
  readonly name: string;
  readonly connector: Connector;
  readonly options: unknown;
  readonly scopes: ReadonlyMap<string, unknown>;
  readonly accepts: readonly string[];
  /** What the store is keyed by, from the address in its normal form. */
  readonly makeKey: (value: string) => string;
  /** The key is the address itself, so that what the store lists says whom it means. */
  readonly isPlain: boolean;
};

export type Worker = {
  /** Takes what the stream delivers; resolves once the worker answers for it (settled, parked, or left to the ledger). */
  offer(batch: readonly Decision[]): Promise<void>;
  /** The stream is live from here on: what was committed before is read from the ledger once more. */
  live(): void;
  down(): void;
  /** Finishes what is under way, reports it, closes the store. */
  stop(): Promise<void>;
};

type Carried = {
  readonly decision: Decision;
  readonly lane: 'live' | 'backfill';
  readonly carriedBy: CarriedBy;
  readonly consumedAt: string;
  /** The store's generation when it was last asked. */
  generation: number;
  /** Times that the store was asked and answered, or failed on this one alone; a mere outage does not count. */
  attempts: number;
  /** As the ledger gave it out: the try that follows says so, and no later one. */
  asked: number;
  /** Times that the ledger knew nothing of it yet. */
  unseen: number;
  /** Times that a call with this one in it threw. */
  throws: number;
  /** What failed together is halved until the one that the store chokes on is alone; undefined: goes with anybody. */
  piece: symbol | undefined;
  settled: PromiseWithResolvers<void>;
  /** Reported, let go or left to be tried later: a failure further on in its batch is none of its own. */
  answered: boolean;
};

/** Belongs to the generation that the store had when it was read back. */
type Report = {
  readonly carried: Carried;
  readonly generation: number;
  readonly acknowledgement: Acknowledgement;
};

export function startWorker({
  store,
  ledger,
  source,
  id,
  log,
  callMsMax = CALL_MS_MAX,
  tracer,
}: {
  store: WorkerStore;
  ledger: LedgerAccess;
  source: { report(): SourceReport };
  /** Who this worker is: the lease and the lag know it by this. */
  id: string;
  log: Log;
  /** How long one call to the store may take. */
  callMsMax?: number;
  /** Undefined: no spans. */
  tracer?: Tracer | undefined;
}): Worker {
  const { connector } = store;
  const held = { scopes: [...store.scopes.keys()], topics: connector.topics };
  const dueTo = { ...held, accepts: store.accepts };
  const stopping = new AbortController();
  const incarnation = `${id}-${Date.now().toString(36)}`;
  const { perSecond } = connector.limits;
  const batchMax = Math.min(connector.limits.batch, Math.max(1, Math.floor(perSecond ?? Infinity)));
  const retriesMax = Math.max(batchMax, perSecond === undefined ? RETRIES_MAX : Math.floor(perSecond));

  let generation: number | undefined;
  /** Which standing of the stream this is; undefined while there is none. */
  let liveSince: symbol | undefined;
  /** The ledger was read whole since the stream stands: from here on what it alone knows was lost by the stream. */
  let caughtUp = false;
  /** Since the reading of the ledger that is under way began, something was left to the ledger: the next one has it. */
  let missed = false;
  let paused = false;
  /** Until the ledger is read the next time, or never again. */
  let readAgain: PromiseWithResolvers<void> = Promise.withResolvers();
  let finished = false;
  let lastError: { code: string; at: string } | undefined;
  const noteError = (code: string): void => {
    lastError = { code, at: new Date().toISOString() };
  };
  let storeFailures = 0;
  let storeDownUntil = 0;
  /** Before then another batch would exceed what the store takes in a second. */
  let pacedUntil = 0;
  let ledgerAway = false;
  /** In hand of what the ledger had parked. Thousands may be due at once: the rest is listed again once these are done. */
  let retrying = 0;
  let moreToRetry = false;
  /** In hand of the back-fill, and whether the ledger has more. */
  let backfilling = 0;
  let moreToBackfill = false;
  const carrying = new Set<Promise<void>>();
  let opening: Promise<Store> | undefined;

  const live: Carried[] = [];
  const backfill: Carried[] = [];
  const inHand = new Map<number, Carried>();
  const noticed = new Map<number, number>();
  const known = rememberLast<number, true>(REMEMBERED);
  /** Subjects in a batch that is under way; only where order matters, in a store without versions. */
  const underWay = new Set<string>();
  /** As which version a subject's consent was last carried, in a store without versions: what is older would undo it. */
  const lifted = rememberLast<string, number>(REMEMBERED);
  const reports: Report[] = [];
  const keys = new Map<number, Promise<Buffer | undefined>>();
  const timers = new Set<NodeJS.Timeout>();
  let pumping: NodeJS.Timeout | undefined;
  let gathering: NodeJS.Immediate | undefined;

  // ---- what is to be carried --------------------------------------------------------------------------------------

  function take(
    decision: Decision,
    lane: 'live' | 'backfill',
    carriedBy: CarriedBy,
    { attempts, asked }: Pick<OutstandingDecision, 'attempts' | 'asked'> = UNTRIED,
  ): Carried {
    const carried: Carried = {
      decision,
      lane,
      carriedBy,
      attempts,
      asked,
      generation: 0,
      unseen: 0,
      throws: 0,
      piece: undefined,
      consumedAt: new Date().toISOString(),
      settled: Promise.withResolvers(),
      answered: false,
    };
    inHand.set(decision.seq, carried);
    if (carriedBy === 'retry') retrying += 1;
    if (lane === 'backfill') backfilling += 1;
    known.set(decision.seq, true);
    (lane === 'live' ? live : backfill).push(carried);
    return carried;
  }

  function letGo(carried: Carried): void {
    carried.answered = true;
    if (inHand.delete(carried.decision.seq)) {
      if (carried.carriedBy === 'retry') retrying -= 1;
      if (carried.lane === 'backfill') backfilling -= 1;
    }
    if (moreToRetry && retrying === 0) {
      moreToRetry = false;
      feeding.wake();
    }
    if (moreToBackfill && backfilling <= PAGE) {
      moreToBackfill = false;
      feeding.wake();
    }
    carried.settled.resolve();
    if (inHand.size <= HELD_MAX - PAGE) room.wake();
  }

  async function offer(batch: readonly Decision[]): Promise<void> {
    if (stopping.signal.aborted) return;
    // Whoever waits for our answer before it reads on reads seldom meanwhile.
    if (paused) return readAgain.promise;
    const settled: Promise<void>[] = [];
    for (const decision of batch) {
      if (!isDue(decision, dueTo)) continue;
      if (inHand.size >= HELD_MAX) {
        // Too far behind: the ledger has it all, and gives it in order. Listening on would only move the loss around.
        if (caughtUp)
          log.info(
            { store: store.name, inHand: inHand.size },
            'store is behind, catching up from the ledger',
          );
        leaveToLedger();
        feeding.wake();
        pump();
        return;
      }
      noticed.delete(decision.seq);
      const carried = inHand.get(decision.seq) ?? take(decision, 'live', 'stream');
      settled.push(carried.settled.promise);
    }
    pumpTogether();
    await Promise.all(settled);
  }

  /** Reads the ledger: everything while catching up or without a stream; while live what the stream seems to have lost. */
  async function feed(): Promise<void> {
    while (!stopping.signal.aborted) {
      const since = liveSince;
      try {
        await readLedger(caughtUp);
        if (ledgerAway) log.info({ store: store.name }, 'the ledger answers again');
        ledgerAway = false;
        // Only a reading that began after the stream stood, and that nothing interrupted, closes the gap.
        if (since !== undefined && since === liveSince && !caughtUp && !missed && !paused) caughtUp = true;
        missed = false;
        await feeding.wait(restMs());
      } catch (error) {
        if (stopping.signal.aborted) return;
        noteError('LEDGER_UNAVAILABLE');
        if (!ledgerAway)
          log.warn({ store: store.name, error }, 'the ledger gives nothing out, goes on trying');
        ledgerAway = true;
        await feeding.wait(POLL_MS);
      }
    }
    readAgain.resolve();
  }

  /** Between two readings of what is live. */
  const restMs = (): number => (caughtUp ? SWEEP_MS : POLL_MS);

  async function readLedger(sweeping: boolean): Promise<void> {
    readAgain.resolve();
    readAgain = Promise.withResolvers();
    let after: string | undefined;
    let inBackfill = false;
    let liveReadAt = performance.now();
    const seen = new Set<number>();
    do {
      while (inHand.size > HELD_MAX - PAGE && !stopping.signal.aborted) {
        await room.wait(SWEEP_MS);
        // However long it takes until there is room: a store that is paused is left alone, and what is due again is tried.
        if (inHand.size > HELD_MAX - PAGE && !stopping.signal.aborted) await readPage(undefined, 1, sweeping);
      }
      // To look through a back-fill of whom few are due takes seconds: what is live has its turn meanwhile.
      const isTurnOfLive = inBackfill && performance.now() - liveReadAt >= restMs();
      if (isTurnOfLive || !inBackfill) liveReadAt = performance.now();
      const page = await readPage(isTurnOfLive ? undefined : after, PAGE, sweeping);
      for (const { seq } of page.decisions) if (noticed.has(seq)) seen.add(seq);
      if (isTurnOfLive) continue;
      after = page.next;
      inBackfill = page.decisions.every(({ lane }) => lane === 'backfill');
      // What is live was read whole by then.
      moreToBackfill =
        after !== undefined &&
        backfilling > BACKFILL_MAX - PAGE &&
        page.decisions.at(-1)?.lane === 'backfill';
    } while (after !== undefined && !moreToBackfill && !stopping.signal.aborted);
    for (const seq of noticed.keys()) if (!seen.has(seq)) noticed.delete(seq);
  }

  async function readPage(
    after: string | undefined,
    limit: number,
    sweeping: boolean,
  ): Promise<OutstandingPage> {
    const page = await ledger.outstanding({ after, limit, signal: stopping.signal });
    // The first report takes the store's lease, where a worker reaches the ledger over HTTP.
    if (generation === undefined) reporting.wake();
    // Nothing is given to a worker without the lease; what was carried for a generation that is over does not count.
    else if (page.generation !== generation) leaveToLedger();
    if (page.unleased === true) leaveToLedger();
    generation = page.generation;
    if (page.paused === true) rest();
    else if (paused) {
      // What the stream brought since the ledger answered was let go.
      paused = false;
      leaveToLedger();
    }
    for (const decision of page.decisions) consider(decision, sweeping);
    pump();
    return page;
  }

  /** The reading of the ledger that is under way may have passed it: the next one has it. */
  function leaveToLedger(): void {
    caughtUp = false;
    missed = true;
  }

  /** While the store is paused nothing is carried, whoever brings it; the ledger gives it all out when it is resumed. */
  function rest(): void {
    if (!paused) log.info({ store: store.name }, 'store is paused, nothing is carried to it');
    paused = true;
    caughtUp = false;
    for (const carried of [...live.splice(0), ...backfill.splice(0)]) letGo(carried);
  }

  function consider(decision: OutstandingDecision, sweeping: boolean): void {
    if (inHand.has(decision.seq)) return;
    if (decision.lane === 'backfill') take(decision, 'backfill', 'backfill', decision);
    else if (decision.attempts > 0) {
      if (retrying < retriesMax) take(decision, 'live', 'retry', decision);
      else moreToRetry = true;
    } else if (!sweeping) take(decision, 'live', 'catch_up');
    else notice(decision);
  }

  /** Due and not in hand while the stream is live: it is on its way, or the stream lost it. */
  function notice(decision: Decision): void {
    const since = noticed.get(decision.seq);
    if (since === undefined) {
      if (noticed.size < HELD_MAX) noticed.set(decision.seq, performance.now());
    } else if (performance.now() - since >= REDRIVE_AFTER_MS) {
      noticed.delete(decision.seq);
      // It was in hand before: an older decision whose newer one was refused, say.
      if (known.has(decision.seq)) return void take(decision, 'live', 'retry');
      log.warn(
        { store: store.name, seq: decision.seq },
        'the stream lost a decision: driven again from the ledger',
      );
      take(decision, 'live', 'redrive');
    }
  }

  // ---- carrying ---------------------------------------------------------------------------------------------------

  function pump(): void {
    while (
      carrying.size < connector.limits.concurrent &&
      reports.length < REPORTS_WAITING_MAX &&
      !stopping.signal.aborted &&
      generation !== undefined
    ) {
      const waitMs = Math.max(storeDownUntil, pacedUntil) - performance.now();
      if (waitMs > 0) return pumpLater(waitMs);
      // A store that failed is asked by one batch at a time until it answers.
      if (storeFailures > 0 && carrying.size > 0) return;
      const batch = nextBatch();
      if (batch.length === 0) return;
      if (perSecond !== undefined)
        pacedUntil = Math.max(pacedUntil, performance.now()) + (batch.length / perSecond) * 1000;
      const subjects = connector.versions === 'none' ? batch.map(({ decision }) => decision.subjectId) : [];
      for (const subject of subjects) underWay.add(subject);
      const batchUnderWay = carry(batch, generation).finally(() => {
        carrying.delete(batchUnderWay);
        for (const subject of subjects) underWay.delete(subject);
        pump();
      });
      carrying.add(batchUnderWay);
    }
  }

  /** What comes in one moment, of several partitions say, goes to the store together. */
  function pumpTogether(): void {
    gathering ??= setImmediate(() => {
      gathering = undefined;
      pump();
    });
  }

  function pumpLater(ms: number): void {
    clearTimeout(pumping);
    pumping = setTimeout(pump, Math.min(ms, PAUSE_MS_MAX));
  }

  /** Live before back-fill; of one subject only the newest, since its acknowledgement supersedes the older ones. */
  function nextBatch(): Carried[] {
    const queue = live.length > 0 ? live : backfill;
    const first = queue[0];
    if (first === undefined) return [];
    const newest = new Map<string, Carried>();
    const waits: Carried[] = [];
    let taken = 0;
    for (const carried of queue) {
      if (carried.piece !== first.piece || newest.size >= batchMax) break;
      taken += 1;
      if (carried.decision.version < (lifted.get(carried.decision.subjectId) ?? 0)) {
        letGo(carried);
        continue;
      }
      if (underWay.has(carried.decision.subjectId)) {
        waits.push(carried);
        continue;
      }
      const other = newest.get(carried.decision.subjectId);
      if (other === undefined) newest.set(carried.decision.subjectId, carried);
      else {
        const [newer, older] =
          carried.decision.version > other.decision.version ? [carried, other] : [other, carried];
        newest.set(carried.decision.subjectId, newer);
        letGo(older);
      }
    }
    queue.splice(0, taken, ...waits);
    return [...newest.values()];
  }

  async function carry(batch: readonly Carried[], ofGeneration: number): Promise<void> {
    let items: Item[];
    for (const carried of batch) {
      carried.generation = ofGeneration;
      carried.answered = false;
    }
    let open: Store;
    try {
      open = await openStore();
      items = [];
      const ready: Carried[] = [];
      for (const carried of batch) {
        const item = await toItem(carried);
        if (item === undefined) continue;
        items.push(item);
        ready.push(carried);
      }
      batch = ready;
    } catch (error) {
      if (!stopping.signal.aborted) storeFailed(batch.filter(isUnanswered), error);
      return;
    }
    if (items.length === 0) return;
    for (const carried of batch) carried.attempts += 1;
    try {
      // Before the next canary covers up that the last one is gone.
      if (canarySubject !== undefined && batch.some(({ decision }) => decision.subjectId === canarySubject))
        await observe(ofGeneration);
      await traced(
        tracer,
        store.name,
        batch.map(({ decision }) => decision),
        () =>
          connector.versions === 'none'
            ? carryUnversioned(open, batch, items)
            : carryVersioned(open, batch, items),
      );
      if (storeFailures > 0) log.info({ store: store.name }, 'store answers again');
      storeFailures = 0;
    } catch (error) {
      // What is under way when the worker stops may fail for that alone; the ledger gives it out again.
      if (stopping.signal.aborted) return;
      const unanswered = batch.filter(isUnanswered);
      if (error instanceof TryLater) {
        for (const carried of unanswered) carried.attempts -= 1;
        storeDownUntil = performance.now() + error.delayMs;
        putBack(unanswered);
      } else callFailed(unanswered, error);
    }
  }

  async function carryVersioned(
    open: Store,
    batch: readonly Carried[],
    items: readonly Item[],
  ): Promise<void> {
    const outcomes = await call((signal) => open.apply(items, signal));
    await follow(open, batch, items, outcomes);
  }

  /**
   * Suppressing goes in any order and together. Lifting goes one subject at a time, and nothing else of that subject goes
   * meanwhile: ask the ledger that the grant is still the newest, apply, ask again, read back; if it was overtaken,
   * suppress again.
   */
  async function carryUnversioned(
    open: Store,
    batch: readonly Carried[],
    items: readonly Item[],
  ): Promise<void> {
    const lifts = items.map((item) => Object.keys(item.granted).length > 0);
    const together = items.filter((_, n) => !lifts[n]);
    if (together.length > 0) {
      const outcomes = await call((signal) => open.apply(together, signal));
      await follow(
        open,
        batch.filter((_, n) => !lifts[n]),
        together,
        outcomes,
      );
    }
    for (const [n, item] of items.entries()) {
      if (!lifts[n]) continue;
      const carried = batch[n]!;
      let newer = await newerThan(carried);
      let outcomes: readonly ApplyOutcome[] = [];
      if (newer === undefined) {
        outcomes = await call((signal) => open.apply([item], signal));
        newer = await newerThan(carried);
      } else if (carried.throws === 0) {
        // Overtaken before the store was told: the newer decision supersedes this one.
        letGo(carried);
        continue;
      }
      if (newer !== undefined) {
        await suppressAgain(open, item, newer);
        letGo(carried);
        continue;
      }
      await follow(open, [carried], [item], outcomes);
    }
  }

  async function newerThan({ decision }: Carried): Promise<Newest | undefined> {
    const newest = await call((signal) => ledger.newest(decision.subjectId, signal));
    return newest.version > decision.version ? newest : undefined;
  }

  /** The newer decision may have been settled before the lifting arrived: what it suppressed must be held afterwards. */
  async function suppressAgain(open: Store, item: Item, newer: Newest): Promise<void> {
    const scopes = mustHold(newer, held);
    const suppressed = Object.fromEntries(
      scopes.map((scope) => [scope, newer.suppressed[scope] ?? item.effectiveAt]),
    );
    const again = new Item({ ...item, version: newer.version, suppressed, granted: {} });
    await call((signal) => open.apply([again], signal));
    if (connector.evidence !== 'read_back') return;
    const [now] = await call((signal) => open.readBack([again], signal));
    if (compareHeld(newer, held, toHeld(now)) === 'missing')
      throw new Error('what a lifting overtook is not held again');
  }

  async function follow(
    open: Store,
    batch: readonly Carried[],
    items: readonly Item[],
    outcomes: readonly ApplyOutcome[],
  ): Promise<void> {
    if (outcomes.length !== items.length)
      throw new Error('the connector answered for another number of items');
    const appliedAt = new Date().toISOString();
    const toRead: number[] = [];
    for (const [n, carried] of batch.entries()) {
      const step = nextStep(outcomes[n]!, connector.evidence);
      switch (step.kind) {
        case 'read_back':
          toRead.push(n);
          break;
        case 'acknowledge':
          report(carried, 'applied', NOTHING, undefined, { appliedAt });
          break;
        case 'leave':
          letGo(carried);
          break;
        case 'park':
          report(carried, step.outcome, NOTHING, step.code, { appliedAt });
          break;
        case 'retry':
          retry(carried);
      }
    }
    if (toRead.length > 0)
      await readBack(
        open,
        toRead.map((n) => ({ carried: batch[n]!, item: items[n]! })),
        appliedAt,
      );
  }

  async function readBack(
    open: Store,
    pairs: readonly { carried: Carried; item: Item }[],
    appliedAt: string,
  ): Promise<void> {
    const { afterMs, withinMs } = connector.settles ?? { afterMs: 0, withinMs: 0 };
    const giveUpAt = performance.now() + withinMs;
    if (afterMs > 0) await delay(afterMs, undefined, { signal: stopping.signal });
    let waiting = pairs;
    for (;;) {
      const answers = await call((signal) =>
        open.readBack(
          waiting.map(({ item }) => item),
          signal,
        ),
      );
      const verifiedAt = new Date().toISOString();
      const missing: { carried: Carried; item: Item; heldNow: Held }[] = [];
      for (const [n, { carried, item }] of waiting.entries()) {
        const heldNow = toHeld(answers[n]);
        if (isVerified(carried, heldNow))
          report(carried, 'verified', heldNow, undefined, { appliedAt, verifiedAt });
        else missing.push({ carried, item, heldNow });
      }
      if (missing.length === 0) return;
      if (performance.now() >= giveUpAt) {
        for (const { carried, heldNow } of missing) {
          noteError('NOT_HELD');
          report(carried, 'failed', heldNow, 'NOT_HELD', { appliedAt, verifiedAt });
        }
        return;
      }
      waiting = missing;
      await delay(Math.min(1_000, Math.max(20, afterMs)), undefined, { signal: stopping.signal });
    }
  }

  function isVerified(carried: Carried, heldNow: Held): boolean {
    const { decision } = carried;
    const compared = compareHeld(decision, held, heldNow);
    // A version above ours is the ledger's to judge: a newer decision of its own, or a store that is ahead of it.
    if (compared !== 'held') return compared === 'newer';
    const told = carried.attempts > 1 && heldNow.version === decision.version;
    return (
      told ||
      !mustClear(decision, held, decision.version - 1).some((scope) => heldNow.suppressed.includes(scope))
    );
  }

  /** The subject's address, or why it cannot be had. Destroyed: its transport key is, and the ledger gives out another copy. */
  async function addressOf(
    decision: Decision,
  ): Promise<
    { readonly value: string } | { readonly not: 'ADDRESS_ERASED' | 'SEALED_UNREADABLE' | 'destroyed' }
  > {
    if (decision.sealed === undefined || decision.transportKeyId === undefined)
      return { not: 'ADDRESS_ERASED' };
    const secret = await transportKey(decision.transportKeyId);
    if (secret === undefined) return { not: 'destroyed' };
    try {
      const key = { id: decision.transportKeyId, secret };
      const sealed = Buffer.from(decision.sealed, 'base64url');
      return { value: unseal(sealed, key, [decision.subjectId, decision.kind]) };
    } catch (error) {
      if (!(error instanceof AbideError) || error.code !== 'SEALED_UNREADABLE') throw error;
      return { not: 'SEALED_UNREADABLE' };
    }
  }

  /** Undefined where the address cannot be had: that is reported, since nothing can be carried without it. */
  async function toItem(carried: Carried): Promise<Item | undefined> {
    const { decision } = carried;
    const address = await addressOf(decision);
    if ('not' in address) {
      if (address.not === 'destroyed') letGo(carried);
      else {
        // It was tried, as far as it goes: the ledger parks what goes on like this.
        carried.attempts += 1;
        report(carried, 'failed', NOTHING, address.not, {});
      }
      return undefined;
    }
    const { value } = address;
    const suppressed = Object.entries(decision.suppressed).flatMap(([scope, since]) =>
      heldAs(scope, held).map((name) => [name, since] as const),
    );
    const kept = new Set(suppressed.map(([name]) => name));
    const granted = Object.entries(decision.granted).flatMap(([scope, grant]) =>
      heldAs(scope, held)
        .filter((name) => !kept.has(name))
        .map((name) => [name, grant] as const),
    );
    return new Item({
      seq: decision.seq,
      version: decision.version,
      subject: { kind: decision.kind, value: new Address(value) },
      key: store.makeKey(value),
      suppressed: Object.fromEntries(suppressed),
      granted: Object.fromEntries(granted),
      effectiveAt: decision.effectiveAt,
      lane: carried.lane,
    });
  }

  /** Undefined: destroyed. */
  function transportKey(keyId: number): Promise<Buffer | undefined> {
    let key = keys.get(keyId);
    if (key === undefined) {
      key = ledger.transportKey(keyId, stopping.signal).catch((error: unknown) => {
        if (error instanceof AbideError && error.code === 'not-found') return undefined;
        keys.delete(keyId);
        throw error;
      });
      keys.set(keyId, key);
    }
    return key;
  }

  /** A connector that does not listen to its signal must not hold the worker either. */
  function call<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const deadline = AbortSignal.timeout(callMsMax);
    return untilAborted(work(deadline), deadline);
  }

  /** One opening, whoever needs the store first; after one that failed or took too long the next batch tries again. */
  function openStore(): Promise<Store> {
    if (opening === undefined) {
      const opened = connector.open(store.options, { log, name: store.name, scopes: store.scopes });
      const inTime = call(() => opened);
      opening = inTime;
      inTime.catch(() => {
        opening = undefined;
        // Given up, and there after all: nobody will use it.
        opened.then((late) => late[Symbol.asyncDispose]()).catch(() => undefined);
      });
    }
    return opening;
  }

  // ---- when it fails ------------------------------------------------------------------------------------------------

  /** A throw is "unknown" for the whole batch: the write may have happened, and applying again is harmless. */
  function callFailed(batch: readonly Carried[], error: unknown): void {
    const [only] = batch;
    if (only === undefined) return;
    for (const carried of batch) carried.throws += 1;
    if (
      batch.length === 1 &&
      only.throws > TOGETHER_MAX &&
      lastSuccessAt > (failedSince.get(only) ?? Infinity)
    ) {
      // The store carried others meanwhile and chokes on this one: the ledger parks it after some attempts.
      const code = failureCode(error);
      noteError(code);
      log.warn({ store: store.name, seq: only.decision.seq, code }, 'store fails on one decision');
      report(only, 'failed', NOTHING, code, {});
      return;
    }
    for (const carried of batch) carried.attempts -= 1;
    if (batch.length > 1 && only.throws >= TOGETHER_MAX) {
      const half = Math.ceil(batch.length / 2);
      const pieces = [Symbol('first half'), Symbol('second half')] as const;
      for (const [n, carried] of batch.entries()) carried.piece = pieces[n < half ? 0 : 1];
    }
    storeFailed(batch, error);
  }

  /** When the store last carried anything well, and since when each one has failed. */
  let lastSuccessAt = -Infinity;
  const failedSince = new WeakMap<Carried, number>();

  function storeFailed(batch: readonly Carried[], error: unknown): void {
    const code = failureCode(error);
    if (storeFailures === 0)
      log.warn({ store: store.name, code, cause: causeCode(error) }, 'store failed, goes on trying');
    storeFailures += 1;
    noteError(code);
    for (const carried of batch) {
      if (!failedSince.has(carried)) failedSince.set(carried, performance.now());
    }
    storeDownUntil = performance.now() + retryDelayMs(storeFailures, Math.random(), STORE_DOWN_MS_MAX);
    // One that is alone makes room for the others: only so does it show whether the store is at fault, or it is.
    putBack(batch, batch.length === 1);
  }

  function putBack(batch: readonly Carried[], atTheEnd = false): void {
    for (const lane of ['live', 'backfill'] as const) {
      const queue = lane === 'live' ? live : backfill;
      const own = batch.filter((carried) => carried.lane === lane);
      if (atTheEnd) queue.push(...own);
      else queue.unshift(...own);
    }
  }

  function retry(carried: Carried): void {
    carried.answered = true;
    later(retryDelayMs(carried.attempts, Math.random()), () => {
      if (paused) return letGo(carried);
      (carried.lane === 'live' ? live : backfill).push(carried);
      pump();
    });
  }

  function later(ms: number, then: () => void): void {
    if (stopping.signal.aborted) return;
    const timer = setTimeout(() => {
      timers.delete(timer);
      then();
    }, ms);
    timers.add(timer);
  }

  // ---- reporting ----------------------------------------------------------------------------------------------------

  function report(
    carried: Carried,
    outcome: Acknowledgement['outcome'],
    heldNow: Held,
    code: string | undefined,
    { appliedAt, verifiedAt }: { appliedAt?: string; verifiedAt?: string },
  ): void {
    if (outcome === 'verified' || outcome === 'applied') {
      lastSuccessAt = performance.now();
      const { subjectId, version, granted } = carried.decision;
      if (connector.versions === 'none' && Object.keys(granted).length > 0) lifted.set(subjectId, version);
    }
    carried.answered = true;
    reports.push({
      carried,
      generation: carried.generation,
      acknowledgement: {
        seq: carried.decision.seq,
        version: carried.decision.version,
        outcome,
        held: heldNow,
        carriedBy: carried.carriedBy,
        attempts: Math.max(1, carried.attempts),
        asked: carried.asked === 0 ? undefined : carried.asked,
        code,
        evidence: { consumedAt: carried.consumedAt, appliedAt, verifiedAt },
      },
    });
    reporting.wake();
  }

  /**
   * Natural batches: while one report is under way the next gather. Once a second one with nothing in it goes first, busy or
   * not: it is the sign of life, and it alone takes a store's lease that became free.
   */
  async function reportAlways(): Promise<void> {
    let signDueAt = -Infinity;
    while (!finished || reports.length > 0) {
      const waitMs = generation === undefined ? SIGN_OF_LIFE_MS : signDueAt - performance.now();
      if (reports.length === 0 && waitMs > 0) await reporting.wait(waitMs);
      const isSign = !finished && performance.now() >= signDueAt;
      // Before the ledger was ever read there is nothing to say that it would understand.
      const of = isSign ? generation : reports[0]?.generation;
      if (of === undefined) continue;
      const batch = isSign ? [] : reports.splice(0, countOfReport(reports, of));
      const told = isSign && observed?.generation === of ? observed : undefined;
      try {
        const answer = await ledger.acknowledge(
          {
            generation: of,
            worker: { id, incarnation, lastError, source: source.report() },
            observed: told?.store,
            acknowledgements: batch.map(({ acknowledgement }) => acknowledgement),
          },
          AbortSignal.timeout(REPORT_MS_MAX),
        );
        if (isSign) {
          signDueAt = performance.now() + SIGN_OF_LIFE_MS;
          // What was seen meanwhile is for the next one.
          if (observed === told) observed = undefined;
        }
        accepted(batch, answer.rejected);
      } catch (error) {
        reports.unshift(...batch);
        if (finished) {
          log.warn(
            { store: store.name, reports: reports.length },
            'stopped without reporting: the ledger asks again',
          );
          return;
        }
        log.debug({ store: store.name, error }, 'a report was not taken, goes on trying');
        await delay(POLL_MS);
      }
      pump();
    }
  }

  function accepted(batch: readonly Report[], rejected: readonly { seq: number; code: string }[]): void {
    const codes = new Map(rejected.map(({ seq, code }) => [seq, code]));
    for (const one of batch) {
      const { carried, acknowledgement } = one;
      const code = codes.get(carried.decision.seq);
      if (code === 'unknown_seq' && carried.unseen < UNSEEN_MAX && !finished) {
        later(UNSEEN_MS * 2 ** carried.unseen, () => {
          reports.push(one);
          reporting.wake();
        });
        carried.unseen += 1;
        continue;
      }
      if (code !== undefined) {
        if (code === 'old_generation') {
          leaveToLedger();
          feeding.wake();
        } else {
          log.warn(
            { store: store.name, seq: carried.decision.seq, code },
            'the ledger did not believe an acknowledgement',
          );
          if (code === 'not_verifiable') {
            // Its judgement counts: a decision that keeps failing it is parked like any other.
            report(carried, 'failed', acknowledgement.held, 'NOT_HELD', {});
            continue;
          }
        }
      }
      // A failure is reported and kept in hand until the ledger parks it: then it gives it out again when its time comes.
      if (acknowledgement.outcome === 'failed' && carried.attempts < PARKED_AFTER) {
        carried.asked = 0;
        retry(carried);
      } else letGo(carried);
    }
  }

  // ---- is it still the same store? ---------------------------------------------------------------------------------

  /** Whose decisions the canaries are, as of the last look. */
  let canarySubject: string | undefined;
  let observed: { readonly generation: number; readonly store: StoreObservation } | undefined;

  /** The ledger judges, with the next sign of life: what was acknowledged belongs to what the store then was. */
  async function observeAlways(): Promise<void> {
    while (!stopping.signal.aborted) {
      await delay(OBSERVE_MS, undefined, { signal: stopping.signal }).catch(() => undefined);
      if (generation === undefined || paused || storeFailures > 0 || stopping.signal.aborted) continue;
      await observe(generation);
    }
  }

  async function observe(of: number): Promise<void> {
    try {
      const open = await openStore();
      // A store that does not tell us (a role that may not ask, say) still has the canary.
      const incarnation = await call(async (signal) => open.incarnation?.(signal)).catch(() => undefined);
      const canary = await lookAtCanary(open);
      // What was lost stays said until it was told: the next canary would cover it up.
      const lost = observed?.generation === of && observed.store.canary === 'lost';
      observed = { generation: of, store: { incarnation, canary: lost ? 'lost' : canary } };
    } catch {
      // A store or a ledger that is away says nothing of what the store is; that it is away others report.
    }
  }

  /** Asked of the ledger before the store is read: what comes in between can only be newer. */
  async function lookAtCanary(open: Store): Promise<StoreObservation['canary']> {
    if (connector.evidence !== 'read_back') return undefined;
    const canary = await ledger.canary(stopping.signal);
    canarySubject = canary?.subjectId;
    if (canary === undefined) return undefined;
    const address = await addressOf(canary);
    if ('not' in address) return undefined;
    const key = { kind: canary.kind, key: store.makeKey(address.value) };
    const [answer] = await call((signal) => open.readBack([key], signal));
    const difference = differenceOf(canary, held, answer && toHeld(answer));
    return difference === 'missing' || difference === 'older' ? 'lost' : 'held';
  }

  // ---- life ---------------------------------------------------------------------------------------------------------

  const feeding = createBell();
  const reporting = createBell();
  const room = createBell();
  const loops = [feed(), reportAlways(), observeAlways()];
  let reconciling = true;
  if (connector.evidence === 'read_back') {
    loops.push(
      reconcileAlways({
        ledger,
        held,
        batchMax: connector.limits.batch,
        keyOf: async (decision): Promise<SubjectKey | undefined> => {
          const address = await addressOf(decision);
          if ('value' in address) return { kind: decision.kind, key: store.makeKey(address.value) };
          if (address.not !== 'destroyed') return undefined;
          // The ledger gives out another copy: the page is asked for again.
          throw new AbideError('SEALED_UNREADABLE');
        },
        readBack: async (subjects) => {
          try {
            const open = await openStore();
            const answers = await call((signal) => open.readBack(subjects, signal));
            reconciling = true;
            return answers.map((answer) => answer && toHeld(answer));
          } catch (error) {
            // Nothing may be due to a store that is away: then nobody else says so.
            if (!(error instanceof TryLater)) noteError(failureCode(error));
            throw error;
          }
        },
        onFailure: (error) => {
          if (reconciling)
            log.warn({ store: store.name, code: failureCode(error) }, 'reconciliation waits for the store');
          reconciling = false;
        },
        signal: stopping.signal,
      }),
    );
  }
  if (store.isPlain && connector.evidence === 'read_back') {
    let listing = true;
    let canList = true;
    loops.push(
      listOwnAlways({
        ledger,
        scan: async (after) => {
          const open = await openStore();
          if (open.scan === undefined) {
            if (canList)
              log.info(
                { store: store.name },
                'the store cannot list: people whom only it knows are not found',
              );
            canList = false;
            return [];
          }
          const deadline = AbortSignal.any([stopping.signal, AbortSignal.timeout(LIST_MS_MAX)]);
          const entries = await untilAborted(open.scan(after, deadline), deadline);
          listing = true;
          return entries;
        },
        onFailure: (error) => {
          if (listing)
            log.info({ store: store.name, code: failureCode(error) }, 'listing waits for the store');
          listing = false;
        },
        signal: stopping.signal,
      }),
    );
  }

  return {
    offer,
    live: () => {
      liveSince = Symbol('live');
      caughtUp = false;
      feeding.wake();
    },
    down: () => {
      liveSince = undefined;
      caughtUp = false;
      feeding.wake();
    },
    stop: async () => {
      stopping.abort();
      for (const timer of [...timers, pumping]) clearTimeout(timer);
      feeding.wake();
      room.wake();
      // What is under way is finished and reported; what only waits is the ledger's to give out again.
      await Promise.all(carrying);
      finished = true;
      reporting.wake();
      await Promise.all(loops);
      for (const carried of inHand.values()) carried.settled.resolve();
      try {
        await (await opening)?.[Symbol.asyncDispose]();
      } catch (error) {
        log.debug({ store: store.name, error }, 'the store was not closed cleanly');
      }
    },
  };
}

type Newest = NonNullable<Awaited<ReturnType<LedgerAccess['newest']>>>;

const UNTRIED = { attempts: 0, asked: 0 };
const NOTHING: Held = { version: undefined, suppressed: [] };
const isUnanswered = ({ answered }: Carried): boolean => !answered;

/** What a connector answered, as far as it can be so: the ledger refuses a whole report for one number that is none. */
function toHeld(answer: Held | undefined): Held {
  if (answer === undefined) return NOTHING;
  const { version, suppressed } = answer;
  return {
    version: Number.isSafeInteger(version) && version! >= 0 ? version : undefined,
    suppressed: suppressed.filter(isScope).slice(0, SCOPES_MAX),
  };
}

/** How many of those that wait go into one report, the first of them in any case. */
function countOfReport(reports: readonly Report[], generation: number): number {
  let scopes = 0;
  const end = reports.slice(0, REPORT_MAX).findIndex((one, n) => {
    scopes += one.acknowledgement.held.suppressed.length;
    return one.generation !== generation || (n > 0 && scopes > REPORT_SCOPES_MAX);
  });
  return end < 0 ? Math.min(reports.length, REPORT_MAX) : end;
}

function createBell() {
  let wakeUp: (() => void) | undefined;
  let rung = false;
  return {
    wake: (): void => {
      rung = true;
      wakeUp?.();
    },
    /** Until the bell rings, or it rang since the last wait, or the time is over. */
    wait: async (ms: number): Promise<void> => {
      if (!rung) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, ms);
          wakeUp = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      }
      rung = false;
      wakeUp = undefined;
    },
  };
}

// Carries decisions to one store: apply, read back, report. The ledger always tells it what to carry, and so does a stream while
// there is one; it knows neither the ledger's tables nor what kind of store it serves.
//
//   live queue ─┐
//               ├─▶ up to `concurrent` batches: apply ▶ read back ─▶ report queue ▶ ledger
//   back-fill ──┘      │  (carry-batch.ts)               (report-always.ts)
//   (in-hand.ts)       └─ failed: try again later, with the same attempts
//
// Everything is bounded: with more than HELD_MAX in hand, the stream is not listened to and the ledger gives the rest.
import type { Tracer } from '@opentelemetry/api';
import { TryLater } from '../connectors/contract/connector.ts';
import type { Item, Log, Store } from '../connectors/contract/connector.ts';
import { FOLLOWED_TO, LIFT_NOT_UNDONE, isDue } from '../suppression/acknowledgement.ts';
import type { AcknowledgementAnswer, SourceReport } from '../suppression/acknowledgement.ts';
import type { Decision, Instant } from '../suppression/decision.ts';
import { AbideError } from '../suppression/errors.ts';
import type { ErrorCode } from '../suppression/errors.ts';
import { createBell } from './bell.ts';
import { createBatchCarrier, toItem } from './carry-batch.ts';
import { toReport } from './carried.ts';
import type { Carried, Report, Result } from './carried.ts';
import type { LedgerAccess, OutstandingDecision, OutstandingPage } from './ledger-access.ts';
import { InHand } from './in-hand.ts';
import { lookForDrift } from './look-for-drift.ts';
import { ledgerFailureCode, retryDelayMs } from './next-step.ts';
import { createStoreObserver } from './observe-store.ts';
import { createAddressOpener } from './open-addresses.ts';
import { reachStore } from './reach-store.ts';
import type { WorkerStore } from './reach-store.ts';
import { createReporter } from './report-always.ts';
import { createStoreFailures } from './store-failures.ts';
import { traced } from './trace.ts';

/** Most decisions in hand: 10,000 of about a kilobyte each. */
const HELD_MAX = 10_000;
const PAGE = 2_000;
/**
 * Most of a back-fill in hand. This leaves room for what is live; and a reading that came this far ends, since each reading begins
 * with what is live and what is to be tried again.
 */
const BACKFILL_MAX = 3 * PAGE;
/** Most retries at a time, if the store does not say how many it takes per second: a live decision waits for no more. */
const RETRIES_MAX = 200;
/** Reports waiting beyond this stop new batches: a ledger that does not answer must not fill our memory. */
const REPORTS_WAITING_MAX = 5_000;
const POLL_MS = 250;
const SWEEP_MS = 1_000;
/** A live worker that has not seen a decision on the stream by then takes it from the ledger, and that is an alarm. */
const REDRIVE_AFTER_MS = 5_000;
const CALL_MS_MAX = 5_000;
/** As in the ledger: from this attempt on, a failure is parked there. */
const PARKED_AFTER = 5;
/** Our timer fires after at most this time and looks whether the wait is over; the store is not asked before that. */
const PAUSE_MS_MAX = 60_000;
/**
 * The stream may be a moment ahead of the ledger: it carries a commit as soon as that is on disk, and other sessions see it only
 * after that. A report that the ledger knows nothing of is repeated this often, the first time after this long.
 */
const UNSEEN_MAX = 6;
const UNSEEN_MS = 10;

export type Worker = {
  /** Takes what the stream delivers; resolves once the worker has answered for it (settled, parked, or left to the ledger). */
  offer(batch: readonly Decision[]): Promise<void>;
  /** The stream is live from here on: what was committed before is read from the ledger once more. */
  live(): void;
  down(): void;
  /** Finishes what is under way, reports it, closes the store. */
  stop(): Promise<void>;
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
  source: { report(): SourceReport; readonly hasOtherWriters?: true };
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
  const { signal } = stopping;
  const { perSecond } = connector.limits;
  const batchMax = Math.min(connector.limits.batch, Math.max(1, Math.floor(perSecond ?? Infinity)));
  const retriesMax = Math.max(batchMax, perSecond === undefined ? RETRIES_MAX : Math.floor(perSecond));

  const hand = new InHand({ batchMax, inOrder: connector.versions === 'none', onLetGo });
  const reach = reachStore({ store, callMsMax, log });
  const addressOf = createAddressOpener({ ledger, signal });
  const observer = createStoreObserver({ store, held, reach, ledger, addressOf, log, signal });
  const reporter = createReporter({
    store: store.name,
    id,
    ledger,
    source,
    generation: () => generation,
    observer,
    log,
  });
  const { noteError } = reporter;
  const failures = createStoreFailures({ store: store.name, hand, report, noteError, log });
  const carryBatch = createBatchCarrier({
    connector,
    held,
    call: reach.call,
    ledger,
    targetSince: () => targetSince,
    report,
    letGo,
    signal,
  });
  const feeding = createBell();
  const room = createBell();

  let generation: number | undefined;
  let targetSince: Instant | undefined;
  /** Identifies this stretch of the live stream; undefined while there is none. */
  let liveSince: symbol | undefined;
  /** The ledger was read whole since the stream came up: from here on, what only the ledger knows was lost by the stream. */
  let caughtUp = false;
  /** Something was left to the ledger since the reading of it under way began: the next reading has it. */
  let missed = false;
  let paused = false;
  /** Resolves when the ledger is read the next time, or will never be read again. */
  let readAgain: PromiseWithResolvers<void> = Promise.withResolvers();
  /** Until then another batch would exceed what the store takes per second. */
  let pacedUntil = 0;
  /** What the ledger answers instead of a page; undefined while it gives out pages. */
  let ledgerAway: ErrorCode | undefined;
  /** Thousands that the ledger had parked may be due at once: the rest is listed again once those in hand are done. */
  let moreToRetry = false;
  /** The ledger has more of the back-fill than was taken. */
  let moreToBackfill = false;
  const carrying = new Set<Promise<void>>();

  /** What the ledger lists and the stream did not bring, and since when; and how much of it this reading found lost. */
  const noticed = new Map<number, number>();
  let lost = 0;
  const timers = new Set<NodeJS.Timeout>();
  let pumping: NodeJS.Timeout | undefined;
  let gathering: NodeJS.Immediate | undefined;

  // ---- what is to be carried --------------------------------------------------------------------------------------

  function letGo(carried: Carried): void {
    hand.letGo(carried);
  }

  function onLetGo(): void {
    if (moreToRetry && hand.retrying === 0) {
      moreToRetry = false;
      feeding.wake();
    }
    if (moreToBackfill && hand.backfilling <= PAGE) {
      moreToBackfill = false;
      feeding.wake();
    }
    if (hand.size <= HELD_MAX - PAGE) room.wake();
  }

  /**
   * Others may have written it. What lifts is not believed then; nor is a version that the ledger could not find in the store and
   * follow, since the store would take nothing more of the person.
   */
  const isBelieved = (decision: Decision): boolean =>
    source.hasOtherWriters !== true ||
    (Object.keys(decision.granted).length === 0 &&
      decision.version <= FOLLOWED_TO &&
      (connector.versions === 'none' || connector.evidence === 'read_back'));

  async function offer(batch: readonly Decision[]): Promise<void> {
    if (signal.aborted) return;
    // A source that waits for our answer before it reads on reads seldom meanwhile.
    if (paused) return readAgain.promise;
    const settled: Promise<void>[] = [];
    for (const decision of batch) {
      if (!isDue(decision, dueTo)) continue;
      const inHand = hand.get(decision.seq);
      if (!isBelieved(decision) || (inHand !== undefined && !isSame(inHand.decision, decision))) {
        // The ledger lists it, if it is one of its own.
        leaveToLedger();
        feeding.wake();
        continue;
      }
      if (hand.size >= HELD_MAX) {
        // Too far behind: the ledger has it all, and gives it in order. Listening on would only move the loss around.
        if (caughtUp)
          log.info({ store: store.name, inHand: hand.size }, 'store is behind: catching up from the ledger');
        leaveToLedger();
        feeding.wake();
        pump();
        return;
      }
      noticed.delete(decision.seq);
      const carried = inHand ?? hand.take(decision, 'live', 'stream');
      settled.push(carried.settled.promise);
    }
    pumpTogether();
    await Promise.all(settled);
  }

  /** Reads the ledger: everything while catching up or without a stream; while live, what the stream seems to have lost. */
  async function feed(): Promise<void> {
    while (!signal.aborted) {
      const since = liveSince;
      try {
        await readLedger(caughtUp);
        if (ledgerAway !== undefined) log.info({ store: store.name }, 'the ledger answers again');
        ledgerAway = undefined;
        // Only a reading that began after the stream stood, and that nothing interrupted, closes the gap.
        if (since !== undefined && since === liveSince && !caughtUp && !missed && !paused) caughtUp = true;
        missed = false;
        await feeding.wait(restMs());
      } catch (error) {
        if (signal.aborted) return;
        // A worker that started before its API has seen no error of it.
        if (generation !== undefined) noteError(ledgerFailureCode(error));
        const answer = error instanceof AbideError ? error.code : 'internal-error';
        if (ledgerAway !== answer)
          log.warn({ store: store.name, error }, 'the ledger gives out nothing, will try again');
        ledgerAway = answer;
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
    lost = 0;
    do {
      while (hand.size > HELD_MAX - PAGE && !signal.aborted) {
        await room.wait(SWEEP_MS);
        // This goes on until there is room: a store that is paused is left alone, and what is due again is tried.
        if (hand.size > HELD_MAX - PAGE && !signal.aborted) await readPage(undefined, 1, sweeping);
      }
      // Looking through a back-fill of which little is due takes seconds: what is live gets its turn meanwhile.
      const isTurnOfLive = inBackfill && performance.now() - liveReadAt >= restMs();
      if (isTurnOfLive || !inBackfill) liveReadAt = performance.now();
      const page = await readPage(isTurnOfLive ? undefined : after, PAGE, sweeping);
      for (const { seq } of page.decisions) if (noticed.has(seq)) seen.add(seq);
      if (isTurnOfLive) continue;
      after = page.next;
      inBackfill = page.decisions.every(({ lane }) => lane === 'backfill');
      // By then, what is live was read whole.
      moreToBackfill =
        after !== undefined &&
        hand.backfilling > BACKFILL_MAX - PAGE &&
        page.decisions.at(-1)?.lane === 'backfill';
    } while (after !== undefined && !moreToBackfill && !signal.aborted);
    for (const seq of noticed.keys()) if (!seen.has(seq)) noticed.delete(seq);
    if (lost > 0)
      log.warn(
        { store: store.name, decisions: lost },
        'the stream lost decisions: the ledger drives them again',
      );
  }

  async function readPage(
    after: string | undefined,
    limit: number,
    sweeping: boolean,
  ): Promise<OutstandingPage> {
    const page = await ledger.outstanding({ after, limit, signal });
    // The first report takes the store's lease if the worker reaches the ledger over HTTP.
    if (generation === undefined) reporter.wake();
    // A worker without the lease is given nothing, and what was carried for a generation that is over does not count.
    else if (page.generation !== generation) leaveToLedger();
    if (page.unleased === true) leaveToLedger();
    generation = page.generation;
    targetSince = page.targetSince;
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

  /** The reading of the ledger under way may have passed it: the next one has it. */
  function leaveToLedger(): void {
    caughtUp = false;
    missed = true;
  }

  /** While the store is paused or retired nothing is carried, whoever brings it; when it is resumed, the ledger gives out all of it. */
  function rest(): void {
    if (!paused) log.info({ store: store.name }, 'store is paused or retired: nothing is carried to it');
    paused = true;
    caughtUp = false;
    hand.letGoOfWaiting();
  }

  function consider(decision: OutstandingDecision, sweeping: boolean): void {
    const inHand = hand.get(decision.seq);
    if (inHand !== undefined) {
      // What a topic brought under this number is none of the ledger's, and is soon let go.
      if (!isSame(inHand.decision, decision)) leaveToLedger();
      return;
    }
    if (decision.lane === 'backfill') hand.take(decision, 'backfill', 'backfill', decision);
    else if (decision.attempts > 0) {
      if (hand.retrying < retriesMax) hand.take(decision, 'live', 'retry', decision);
      else moreToRetry = true;
    } else if (!sweeping) hand.take(decision, 'live', 'catch_up');
    else notice(decision);
  }

  /** Due and not in hand while the stream is live: it is on its way, or the stream lost it. */
  function notice(decision: Decision): void {
    const now = performance.now();
    const since = noticed.get(decision.seq);
    if (since === undefined) {
      if (noticed.size < HELD_MAX) noticed.set(decision.seq, now);
    } else if (failures.inARow() > 0 || observer.isAway()) {
      // Another worker of the store may have it in hand; it asks the store again within seconds of its return.
      noticed.set(decision.seq, now);
    } else if (now - since >= REDRIVE_AFTER_MS) {
      noticed.delete(decision.seq);
      // It was in hand before: an older decision whose newer one was refused, for example.
      if (hand.wasLately(decision.seq)) return void hand.take(decision, 'live', 'retry');
      hand.take(decision, 'live', 'redrive');
      lost += 1;
    }
  }

  // ---- carrying ---------------------------------------------------------------------------------------------------

  function pump(): void {
    while (
      carrying.size < connector.limits.concurrent &&
      reporter.waiting() < REPORTS_WAITING_MAX &&
      !signal.aborted &&
      generation !== undefined
    ) {
      const waitMs = Math.max(failures.downUntil(), pacedUntil) - performance.now();
      if (waitMs > 0) return pumpLater(waitMs);
      // A store that failed is asked with one batch at a time until it answers.
      if (failures.inARow() > 0 && carrying.size > 0) return;
      const batch = hand.nextBatch(failures.inARow());
      if (batch.length === 0) return;
      if (perSecond !== undefined)
        pacedUntil = Math.max(pacedUntil, performance.now()) + (batch.length / perSecond) * 1000;
      const batchUnderWay = carry(batch, generation).finally(() => {
        carrying.delete(batchUnderWay);
        hand.isBack(batch);
        pump();
      });
      carrying.add(batchUnderWay);
    }
  }

  /** What comes at one moment, from several partitions for example, goes to the store together. */
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

  async function carry(batch: readonly Carried[], ofGeneration: number): Promise<void> {
    let items: Item[];
    for (const carried of batch) {
      carried.generation = ofGeneration;
      carried.answered = false;
    }
    let open: Store;
    try {
      open = await reach.open();
      items = [];
      const ready: Carried[] = [];
      for (const carried of batch) {
        const item = await itemOf(carried);
        if (item === undefined) continue;
        items.push(item);
        ready.push(carried);
      }
      batch = ready;
    } catch (error) {
      if (!signal.aborted) failures.storeFailed(batch.filter(isUnanswered), error);
      return;
    }
    if (items.length === 0) return;
    for (const carried of batch) carried.attempts += 1;
    try {
      // Look before the next canary covers up that the last one is gone.
      if (batch.some(({ decision }) => observer.mayBeCanary(decision.subjectId)))
        await observer.observe(ofGeneration);
      await traced(
        tracer,
        store.name,
        batch.map(({ decision }) => decision),
        () => carryBatch(open, batch, items),
      );
      failures.answered();
    } catch (error) {
      // What is under way when the worker stops may fail just because of that; the ledger gives it out again.
      if (signal.aborted) return;
      const unanswered = batch.filter(isUnanswered);
      if (error instanceof TryLater) failures.leaveAlone(unanswered, error.delayMs);
      else failures.callFailed(unanswered, error);
    }
  }

  /** Undefined if the address cannot be had: that is reported, since nothing can be carried without it. */
  async function itemOf(carried: Carried): Promise<Item | undefined> {
    const address = await addressOf(carried.decision);
    if ('value' in address) return toItem(carried, address.value, { held, makeKey: store.makeKey });
    if (address.not === 'destroyed') letGo(carried);
    else {
      // This counts as a try: the ledger parks what goes on like this, and at once what no further try can change.
      carried.attempts += 1;
      const outcome = address.not === 'ADDRESS_ERASED' ? 'refused' : 'failed';
      report(carried, { outcome, code: address.not });
    }
    return undefined;
  }

  // ---- again later --------------------------------------------------------------------------------------------------

  function retry(carried: Carried): void {
    later(retryDelayMs(carried.attempts, Math.random()), () => {
      if (paused) return letGo(carried);
      hand.putBack([carried], true);
      pump();
    });
  }

  function later(ms: number, then: () => void): void {
    if (signal.aborted) return;
    const timer = setTimeout(() => {
      timers.delete(timer);
      then();
    }, ms);
    timers.add(timer);
  }

  // ---- reporting ----------------------------------------------------------------------------------------------------

  function report(carried: Carried, result: Result): void {
    const { of, outcome, code } = result;
    if (outcome === 'verified' || outcome === 'applied') {
      failures.tookOne();
      hand.wasTaken(carried);
    }
    if (code === 'NOT_HELD' || code === LIFT_NOT_UNDONE) noteError(code);
    if (of !== undefined)
      log.warn(
        { store: store.name, seq: of.seq, code },
        'the store may not hold what a newer decision suppresses: it is carried again',
      );
    carried.answered = true;
    reporter.push(toReport(carried, result));
  }

  /** What the ledger took is done with, and there is room for more. */
  function accepted(batch: readonly Report[], rejected: AcknowledgementAnswer['rejected']): void {
    const codes = new Map(rejected.map(({ seq, code }) => [seq, code]));
    for (const one of batch) {
      const { carried, acknowledgement } = one;
      const code = codes.get(acknowledgement.seq);
      if (code === 'unknown_seq' && carried.unseen < UNSEEN_MAX && !reporter.isFinished()) {
        later(UNSEEN_MS * 2 ** carried.unseen, () => reporter.push(one));
        carried.unseen += 1;
        continue;
      }
      if (code !== undefined) {
        if (code === 'old_generation') {
          leaveToLedger();
          feeding.wake();
        } else {
          log.warn(
            { store: store.name, seq: acknowledgement.seq, code },
            'the ledger rejected an acknowledgement',
          );
          if (code === 'not_verifiable') {
            // The ledger's judgement counts: a decision that keeps failing it is parked like any other.
            report(carried, { outcome: 'failed', held: acknowledgement.held, code: 'NOT_HELD' });
            continue;
          }
          if (code === 'version_mismatch') {
            // Not what the ledger has under this number: a try more says nothing of that either.
            letGo(carried);
            continue;
          }
        }
      }
      // A failed decision is reported and kept in hand until the ledger parks it, which gives it out again when its time comes.
      if (
        acknowledgement.outcome === 'failed' &&
        acknowledgement.code !== LIFT_NOT_UNDONE &&
        carried.attempts < PARKED_AFTER
      ) {
        carried.asked = 0;
        retry(carried);
      } else letGo(carried);
    }
    pump();
  }

  const isLeftAlone = (): boolean =>
    paused || failures.inARow() > 0 || performance.now() < failures.downUntil();

  // ---- life ---------------------------------------------------------------------------------------------------------

  const loops = [
    feed(),
    reporter.reportAlways(accepted),
    observer.observeAlways(() => (isLeftAlone() ? undefined : generation)),
    lookForDrift({ store, held, reach, ledger, addressOf, noteError, log, signal }),
  ];

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
      // What is under way is finished and reported; what only waits is left to the ledger, which gives it out again.
      await Promise.all(carrying);
      reporter.finish();
      await Promise.all(loops);
      hand.giveUp();
      await reach.close();
    },
  };
}

const isSame = (a: Decision, b: Decision): boolean => a.subjectId === b.subjectId && a.version === b.version;
const isUnanswered = ({ answered }: Carried): boolean => !answered;

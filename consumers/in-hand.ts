// What a worker has in hand. A decision is in hand from when it is queued until it is answered for, so that stream and ledger
// together do not carry it twice.
import type { CarriedBy } from '../suppression/acknowledgement.ts';
import type { Decision } from '../suppression/decision.ts';
import { rememberLast } from '../suppression/remember-last.ts';
import { toCarried } from './carried.ts';
import type { Carried } from './carried.ts';

/** How many of those lately in hand are remembered: if the ledger lists one again, the stream did not lose it. */
const REMEMBERED = 50_000;

export class InHand {
  readonly #batchMax: number;
  readonly #inOrder: boolean;
  readonly #onLetGo: () => void;
  readonly #bySeq = new Map<number, Carried>();
  readonly #waiting: Readonly<Record<Carried['lane'], Carried[]>> = { live: [], backfill: [] };
  readonly #lately = rememberLast<number, true>(REMEMBERED);
  /** How many decisions of a subject are in batches under way. */
  readonly #underWay = new Map<string, number>();
  /** The version of the consent last carried for a subject, where order matters: anything older would undo it. */
  readonly #lifted = rememberLast<string, number>(REMEMBERED);
  #retrying = 0;
  #backfilling = 0;

  /** `inOrder`: the store has no versions, so no two decisions of a subject go side by side, and none after a newer consent. */
  constructor({ batchMax, inOrder, onLetGo }: { batchMax: number; inOrder: boolean; onLetGo: () => void }) {
    this.#batchMax = batchMax;
    this.#inOrder = inOrder;
    this.#onLetGo = onLetGo;
  }

  get size(): number {
    return this.#bySeq.size;
  }
  /** How many in hand the ledger had parked. */
  get retrying(): number {
    return this.#retrying;
  }
  /** How many in hand are of the back-fill. */
  get backfilling(): number {
    return this.#backfilling;
  }
  get(seq: number): Carried | undefined {
    return this.#bySeq.get(seq);
  }
  /** Whether the decision is in hand or was lately. */
  wasLately(seq: number): boolean {
    return this.#lately.has(seq);
  }

  /** Queues a decision that is not in hand. */
  take(
    decision: Decision,
    lane: Carried['lane'],
    carriedBy: CarriedBy,
    tried?: Pick<Carried, 'attempts' | 'asked'>,
  ): Carried {
    const carried = toCarried(decision, lane, carriedBy, tried);
    this.#bySeq.set(decision.seq, carried);
    if (carriedBy === 'retry') this.#retrying += 1;
    if (lane === 'backfill') this.#backfilling += 1;
    this.#lately.set(decision.seq, true);
    this.#waiting[lane].push(carried);
    return carried;
  }

  /** It is answered for: settled, parked, or left to the ledger. */
  letGo(carried: Carried): void {
    carried.answered = true;
    if (this.#bySeq.delete(carried.decision.seq)) {
      if (carried.carriedBy === 'retry') this.#retrying -= 1;
      if (carried.lane === 'backfill') this.#backfilling -= 1;
    }
    carried.settled.resolve();
    this.#onLetGo();
  }

  /** Lets go of everything that waits; what is under way goes on. */
  letGoOfWaiting(): void {
    for (const carried of [...this.#waiting.live.splice(0), ...this.#waiting.backfill.splice(0)])
      this.letGo(carried);
  }

  /** Nobody waits for these any more; the ledger gives them out again. */
  giveUp(): void {
    for (const { settled } of this.#bySeq.values()) settled.resolve();
  }

  /**
   * Live before back-fill; only the newest of a subject, since its acknowledgement supersedes the older ones.
   *
   * Decisions that the store failed on never go with others. After `failures` in a row the store is asked alternately with a single
   * decision, the last one that it has not failed on (so that newcomers are not stuck behind the ones it chokes on; and if it takes
   * that one, the store is not at fault), and with a batch (so that soon something is known of every decision).
   */
  nextBatch(failures = 0): Carried[] {
    const isAlone = failures % 2 === 1;
    const queue = this.#waiting.live.length > 0 ? this.#waiting.live : this.#waiting.backfill;
    const start =
      failures === 0
        ? 0
        : Math.max(0, isAlone ? queue.findLastIndex(hasNotFailed) : queue.findIndex(hasNotFailed));
    const first = queue[start];
    if (first === undefined) return [];
    const newest = new Map<string, Carried>();
    const left: Carried[] = [];
    let at = start;
    for (; at < queue.length && newest.size < (isAlone ? 1 : this.#batchMax); at += 1) {
      const carried = queue[at]!;
      const { subjectId, version } = carried.decision;
      const other = newest.get(subjectId);
      if (carried.piece !== first.piece || hasNotFailed(carried) !== hasNotFailed(first)) left.push(carried);
      else if (version < (this.#lifted.get(subjectId) ?? 0)) this.letGo(carried);
      else if (this.#underWay.has(subjectId) && this.#goesAlone(carried)) left.push(carried);
      else if (other === undefined) newest.set(subjectId, carried);
      else {
        const [newer, older] = version > other.decision.version ? [carried, other] : [other, carried];
        newest.set(subjectId, newer);
        this.letGo(older);
      }
    }
    queue.splice(start, at - start, ...left);
    const batch = [...newest.values()];
    for (const { decision } of batch)
      this.#underWay.set(decision.subjectId, (this.#underWay.get(decision.subjectId) ?? 0) + 1);
    return batch;
  }

  /** The store is read first to see whether a consent lifts what it was told: nothing may be on its way there meanwhile. */
  #goesAlone({ decision }: Carried): boolean {
    return this.#inOrder || Object.keys(decision.granted).length > 0;
  }

  /** Nothing of this batch is with the store any more. */
  isBack(batch: readonly Carried[]): void {
    for (const { decision } of batch) {
      const left = this.#underWay.get(decision.subjectId)! - 1;
      if (left === 0) this.#underWay.delete(decision.subjectId);
      else this.#underWay.set(decision.subjectId, left);
    }
  }

  /** Queues a batch again, before what was decided later unless `atTheEnd`. */
  putBack(batch: readonly Carried[], atTheEnd = false): void {
    for (const lane of ['live', 'backfill'] as const) {
      const queue = this.#waiting[lane];
      const own = batch.filter((carried) => carried.lane === lane);
      const [first] = own;
      if (first === undefined) continue;
      // A back-fill has no such order.
      const later =
        lane === 'live' ? queue.findIndex(({ decision }) => decision.seq > first.decision.seq) : 0;
      if (atTheEnd || later === -1) queue.push(...own);
      else queue.splice(later, 0, ...own);
    }
  }

  /** The store has taken it. */
  wasTaken({ decision: { subjectId, version, granted } }: Carried): void {
    if (this.#inOrder && Object.keys(granted).length > 0) this.#lifted.set(subjectId, version);
  }
}

/** The store has failed on everything that the ledger had parked, even if in an earlier worker's hands. */
const hasNotFailed = ({ throws, carriedBy }: Carried): boolean => throws === 0 && carriedBy !== 'retry';

// What keys have spent of their daily budgets (UTC), in the ledger, so that restarts and several processes agree.
//
// A recording is paid for in its own transaction (beginSpending): it is spent if and only if it is recorded. A mere question is
// paid for beforehand (createSpend), in one short statement for all callers of a key that wait.
import { AbideError } from '../suppression/errors.ts';
import { audit } from './audit.ts';
import type { Caller } from './contract/audit.ts';
import type { Direction } from './contract/budgets.ts';
import { inTransaction } from './database.ts';
import type { Client, Pool } from './database.ts';

const TODAY = "(clock_timestamp() at time zone 'UTC')::date";
const SECONDS_LEFT =
  "extract(epoch from (day + 1)::timestamp at time zone 'UTC' - clock_timestamp())::float8";
const OF_KEY = 'key_id = $1 and client = $2 and direction = $3';
/** Refusals that are remembered; each key and direction has one. */
const REFUSED_MAX = 10_000;

const SAID: Readonly<Record<Direction, string>> = {
  opt_out: 'opt-outs',
  grant: 'grants',
  check: 'checks',
};

/** A budget that a caller has; a caller without one spends nothing. */
type Budget = {
  readonly caller: Caller;
  readonly lineage: string;
  readonly direction: Direction;
  readonly perDay: number;
};

/** Told of each refusal; `isFirst`: the first of a key, day and direction. */
export type OnRefused = (refused: Budget, isFirst: boolean) => void;

function budgetOf(caller: Caller, direction: Direction): Budget | undefined {
  const perDay = caller.budgets?.perDay[direction];
  return perDay === undefined ? undefined : { caller, lineage: caller.budgets!.lineage, direction, perDay };
}

const nameOf = ({ caller, lineage, direction }: Budget): string =>
  `${direction}\0${lineage}\0${caller.client}`;
const columnsOf = ({ caller, lineage, direction }: Budget): string[] => [lineage, caller.client, direction];

const exhausted = ({ direction, perDay }: Budget, secondsLeft: number): AbideError =>
  new AbideError('budget-exhausted', `The key has spent today's budget of ${perDay} ${SAID[direction]}.`, {
    retryAfterSeconds: Math.max(1, Math.ceil(secondsLeft)),
  });

/** Marks that a budget was refused. Returns whether that was the first time of the day, which is then in the audit log. */
async function markRefused(client: Client, budget: Budget, day: string, spent: number): Promise<boolean> {
  const { direction, perDay: per_day, lineage } = budget;
  const { rowCount } = await client.query(
    `update budget_usage set exhausted_at = clock_timestamp()
     where ${OF_KEY} and day = $4 and exhausted_at is null`,
    [...columnsOf(budget), day],
  );
  if (rowCount !== 1) return false;
  await audit(client, budget.caller, 'budget.exhausted', lineage, { direction, per_day, spent });
  return true;
}

export type Spending = {
  /**
   * Takes `count` from what the caller has left if it fits; otherwise takes nothing and returns what to answer. A count of 0 fits
   * if anything was left before this transaction.
   */
  take(caller: Caller, count: number): AbideError | undefined;
  /** Writes what was taken and refused, before COMMIT. Returns what reports the refusals, to be called after COMMIT. */
  write(): Promise<() => void>;
};

const NOTHING_TO_SPEND: Spending = {
  take: () => undefined,
  write: () => Promise.resolve(() => undefined),
};

/**
 * What the callers of a transaction have left, with their rows locked until it ends: to be called after subjects are locked, never
 * before. If none of them has a budget, it runs no query.
 */
export async function beginSpending(
  client: Client,
  direction: Direction,
  callers: readonly Caller[],
  onRefused: OnRefused,
): Promise<Spending> {
  const budgets = new Map<string, Budget>();
  for (const caller of callers) {
    const budget = budgetOf(caller, direction);
    if (budget !== undefined) budgets.set(nameOf(budget), budget);
  }
  if (budgets.size === 0) return NOTHING_TO_SPEND;
  const { rows } = await client.query<{
    key_id: string;
    client: string;
    day: string;
    spent: number;
    seconds_left: number;
  }>({
    name: 'lock-budgets',
    // In the same order everywhere, and by an upsert, since the row of a new day does not exist yet and cannot be locked.
    text: `insert into budget_usage as b (key_id, client, day, direction, spent)
           select key_id, client, ${TODAY}, $3, 0 from unnest($1::text[], $2::text[]) as x (key_id, client)
           order by key_id, client
           on conflict (key_id, client, day, direction) do update set spent = b.spent
           returning key_id, client, day::text, spent, ${SECONDS_LEFT} as seconds_left`,
    values: [
      [...budgets.values()].map(({ lineage }) => lineage),
      [...budgets.values()].map(({ caller }) => caller.client),
      direction,
    ],
  });
  const locked = new Map(
    rows.map((row) => [`${direction}\0${row.key_id}\0${row.client}`, { ...row, taken: 0 }]),
  );
  const refused: Budget[] = [];
  return {
    take: (caller, count) => {
      const budget = budgetOf(caller, direction);
      if (budget === undefined) return undefined;
      const row = locked.get(nameOf(budget))!;
      if (count === 0 ? row.spent >= budget.perDay : row.spent + row.taken + count > budget.perDay) {
        refused.push(budget);
        return exhausted(budget, row.seconds_left);
      }
      row.taken += count;
      return undefined;
    },
    write: async () => {
      for (const { key_id, client: of, day, taken } of locked.values()) {
        if (taken === 0) continue;
        await client.query({
          name: 'spend-locked-budget',
          text: `update budget_usage set spent = spent + $5 where ${OF_KEY} and day = $4`,
          values: [key_id, of, direction, day, taken],
        });
      }
      const first = new Set<Budget>();
      for (const budget of new Map(refused.map((one) => [nameOf(one), one])).values()) {
        const { day, spent, taken } = locked.get(nameOf(budget))!;
        if (await markRefused(client, budget, day, spent + taken)) first.add(budget);
      }
      return () => refused.forEach((budget) => onRefused(budget, first.has(budget)));
    },
  };
}

type Waiting = {
  readonly budget: Budget;
  readonly count: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
};

/**
 * Spends in a statement of its own, all of `count` or nothing. While one statement is under way for a key, later callers share the
 * next one. A refusal is remembered for the day, since what is spent never goes down: a client that goes on asking costs the
 * database nothing. Throws AbideError('budget-exhausted').
 */
export function createSpend(
  pool: Pool,
  onRefused: OnRefused,
): (caller: Caller, direction: Direction, count: number) => Promise<void> {
  const waiting = new Map<string, Waiting[]>();
  const refused = new Map<string, { readonly spent: number; readonly untilMs: number }>();

  async function run(name: string, queue: Waiting[]): Promise<void> {
    while (queue.length > 0) {
      const batch = queue.splice(0);
      try {
        await settle(name, batch);
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    waiting.delete(name);
  }

  /** Spends for all of them if that fits, else for one half and then the other: in order of arrival, with few statements. */
  async function settle(name: string, batch: readonly Waiting[]): Promise<void> {
    const one = batch[0]!;
    if (batch.length === 1) {
      const known = knownRefusal(name, one.budget, one.count);
      if (known !== undefined) return one.reject(known);
    }
    const count = batch.reduce((sum, each) => sum + each.count, 0);
    // The lower limit, if the key's limit was changed a moment ago; alone, each caller goes by its own.
    const perDay = Math.min(...batch.map(({ budget }) => budget.perDay));
    if (await spendOnce({ ...one.budget, perDay }, count)) return batch.forEach(({ resolve }) => resolve());
    if (batch.length === 1) return one.reject(await refuse(name, one.budget));
    const half = Math.ceil(batch.length / 2);
    await settle(name, batch.slice(0, half));
    await settle(name, batch.slice(half));
  }

  function knownRefusal(name: string, budget: Budget, count: number): AbideError | undefined {
    const known = refused.get(name);
    if (known === undefined) return undefined;
    const leftMs = known.untilMs - performance.now();
    if (leftMs <= 0 || known.spent + count <= budget.perDay) return undefined;
    onRefused(budget, false);
    return exhausted(budget, leftMs / 1000);
  }

  /** False if it does not fit, and then nothing was spent. */
  async function spendOnce(budget: Budget, count: number): Promise<boolean> {
    const { rowCount } = await pool.query({
      name: 'spend-budget',
      text: `insert into budget_usage as b (key_id, client, day, direction, spent)
             select $1, $2, ${TODAY}, $3, $4 where $4::bigint <= $5
             on conflict (key_id, client, day, direction) do update set spent = b.spent + excluded.spent
               where b.spent + excluded.spent <= $5`,
      values: [...columnsOf(budget), count, budget.perDay],
    });
    return rowCount === 1;
  }

  async function refuse(name: string, budget: Budget): Promise<AbideError> {
    const { spent, secondsLeft, isFirst } = await inTransaction(pool, async (client) => {
      await client.query(
        `insert into budget_usage (key_id, client, day, direction, spent) values ($1, $2, ${TODAY}, $3, 0)
         on conflict do nothing`,
        columnsOf(budget),
      );
      const { rows } = await client.query<{ day: string; spent: number; seconds_left: number }>(
        `select day::text, spent, ${SECONDS_LEFT} as seconds_left from budget_usage where ${OF_KEY} and day = ${TODAY}`,
        columnsOf(budget),
      );
      // The day ended in between: there is a new budget in a moment.
      if (rows[0] === undefined) return { spent: 0, secondsLeft: 0, isFirst: false };
      const { day, spent, seconds_left: secondsLeft } = rows[0];
      return { spent, secondsLeft, isFirst: await markRefused(client, budget, day, spent) };
    });
    if (refused.size >= REFUSED_MAX) refused.clear();
    refused.set(name, { spent, untilMs: performance.now() + secondsLeft * 1000 });
    onRefused(budget, isFirst);
    return exhausted(budget, secondsLeft);
  }

  return (caller, direction, count) => {
    const budget = budgetOf(caller, direction);
    if (budget === undefined || count === 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const name = nameOf(budget);
      const known = knownRefusal(name, budget, count);
      if (known !== undefined) return reject(known);
      const one = { budget, count, resolve, reject };
      const queue = waiting.get(name);
      if (queue !== undefined) return void queue.push(one);
      const begun = [one];
      waiting.set(name, begun);
      void run(name, begun);
    });
  };
}

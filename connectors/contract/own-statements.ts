// The user's own tables, written and read by two statements of the user's, one item at a time, with the version of each subject
// beside them and in the same transaction. The order of the steps is the same in every SQL server and stands here; how a server
// says them is up to its connector.
import { z } from 'zod';
import { AbideError } from '../../suppression/errors.ts';
import { CHANNELS, isChannel } from '../../suppression/scope.ts';
import type { ApplyOutcome, Held, Item, SubjectKey } from './connector.ts';
import { nameOf, otherScopes, told } from './outcomes.ts';

// --- named parameters

const PARAMETERS = ['key', 'kind', 'version', 'email', 'sms', 'push', 'scopes', 'effective_at'] as const;
export type Parameter = (typeof PARAMETERS)[number];
export type Statement = {
  readonly text: string;
  /** The parameters whose values the server's own placeholders take, in their order. */
  readonly parameters: readonly Parameter[];
  readonly faults: string[];
};

/** How a server's SQL is read. */
export type Dialect = {
  /**
   * Matches what may hold a colon or a placeholder without meaning one: texts, names, comments. Then the group `name` matches a
   * parameter, and the group `foreign` a placeholder of the server's own, which would collide with ours.
   */
  readonly token: RegExp;
  /** Adds the parameter and gives the placeholder that stands for it. */
  readonly place: (parameters: Parameter[], parameter: Parameter) => string;
};

/** Replaces the named parameters with the server's placeholders. */
export function readStatement(sql: string, { token, place }: Dialect): Statement {
  const parameters: Parameter[] = [];
  const faults: string[] = [];
  const text = sql.replaceAll(token, (found: string, ...rest: unknown[]) => {
    const { name, foreign } = rest.at(-1) as { readonly name?: string; readonly foreign?: string };
    if (foreign !== undefined) faults.push(`${foreign} is not a named parameter`);
    if (name === undefined) return found;
    const known = PARAMETERS.find((parameter) => parameter === name);
    if (known !== undefined) return place(parameters, known);
    faults.push(`:${name} is not one of :${PARAMETERS.join(' :')}`);
    return found;
  });
  if (!parameters.includes('key')) faults.push(':key is missing');
  return { text, parameters, faults };
}

/** The option `statements`. */
export function statementsOption(dialect: Dialect, apply: string, readBack: string) {
  const sql = z.string().check((context) => {
    for (const message of readStatement(context.value, dialect).faults) {
      context.issues.push({ code: 'custom', message, input: context.value });
    }
  });
  return z
    .strictObject({ apply: sql.describe(apply), read_back: sql.describe(readBack) })
    .optional()
    .describe('Two statements for tables of your own, instead of `table`');
}

/** For the options as a whole. */
export const isOnePlace = ({ table, statements }: { table?: unknown; statements?: unknown }): boolean =>
  table === undefined || statements === undefined;
export const NOT_ONE_PLACE = { error: 'give either table or statements', path: ['statements'] };

// --- what is done with them

/** Both statements and the versions beside them, on one connection. */
export type OwnTables = {
  run(words: 'commit' | 'rollback' | 'savepoint item' | 'rollback to savepoint item'): Promise<unknown>;
  begin(): Promise<unknown>;
  /** Locks the versions of these items in one order and gives the versions held, by name; 0 if none is. */
  lock(items: readonly Item[]): Promise<ReadonlyMap<string, number>>;
  keep(items: readonly Item[]): Promise<unknown>;
  /** Removes the rows that were locked for nothing. */
  forget(items: readonly Item[]): Promise<unknown>;
  /** How many rows the user's statement changed; null if the server does not count them. */
  apply(values: Readonly<Record<Parameter, string | number | boolean | null>>): Promise<number | null>;
  /** A version is given only if the user's row has one. */
  readBack(key: SubjectKey): Promise<readonly Held[]>;
  /** Whether the user's statement can say topics and purposes. */
  readonly holdsOtherScopes: boolean;
  /** Whether the user's statement writes the version into the user's own rows. */
  readonly keepsVersions: boolean;
  /** A code if the server refuses the values of one item; undefined for any other error. */
  refusalOf(error: unknown): string | undefined;
};

const NOT_ALL_HELD = 'SCOPE_NOT_HELD';

/** If two contacts have one address, a scope is held only if both hold it. */
const heldByAll = ([first, ...others]: readonly Held[]): Held | undefined =>
  first && {
    version: first.version,
    suppressed: first.suppressed.filter((scope) => others.every((other) => other.suppressed.includes(scope))),
  };

/** In the caller's transaction; `beside` is the version that is kept beside the user's rows. */
export async function applyOne(tables: OwnTables, item: Item, beside: number): Promise<ApplyOutcome> {
  // If rows went back in time, their own version is the one that says what they hold.
  const inTheirRow = tables.keepsVersions ? heldByAll(await tables.readBack(item))?.version : undefined;
  const held = inTheirRow ?? beside;
  if (item.version < held) return { kind: 'already_newer' };
  const scopes = otherScopes(item, held);
  const [email, sms, push] = [
    told(item, 'email', held),
    told(item, 'sms', held),
    told(item, 'push', held),
  ] as const;
  const isSilent = [email, sms, push, ...Object.values(scopes)].every((state) => state === null);
  const isOlderThere = tables.keepsVersions && held < item.version;
  if (!isSilent || isOlderThere) {
    const { kind, key, version, effectiveAt } = item;
    const values = { kind, key, version, email, sms, push, effective_at: effectiveAt };
    const changed = await tables.apply({ ...values, scopes: JSON.stringify(scopes) });
    // A count of 0 may mean that nothing had to change, or that nobody is there.
    if (changed === 0 && (await tables.readBack(item)).length === 0) return { kind: 'absent' };
  }
  // What the user's statement cannot say is never painted as held. The channels are suppressed all the same, and at this version:
  // an older consent that comes late must not lift them.
  const isLost = !tables.holdsOtherScopes && Object.values(scopes).includes(true);
  return isLost ? { kind: 'refused', code: NOT_ALL_HELD } : { kind: 'applied' };
}

async function applyInOne(tables: OwnTables, items: readonly Item[], apart: boolean) {
  const outcomes = new Map<Item, ApplyOutcome>();
  await tables.begin();
  const held = await tables.lock(items);
  for (const item of items) {
    if (apart) await tables.run('savepoint item');
    try {
      outcomes.set(item, await applyOne(tables, item, held.get(nameOf(item)) ?? 0));
    } catch (error) {
      const code = apart ? tables.refusalOf(error) : undefined;
      if (code === undefined) throw error;
      await tables.run('rollback to savepoint item');
      outcomes.set(item, { kind: 'refused', code });
    }
  }
  const isTold = (item: Item): boolean => {
    const outcome = outcomes.get(item)!;
    return outcome.kind === 'applied' || (outcome.kind === 'refused' && outcome.code === NOT_ALL_HELD);
  };
  await tables.keep(items.filter(isTold));
  const unused = items.filter((item) => !isTold(item) && (held.get(nameOf(item)) ?? 0) === 0);
  if (unused.length > 0) await tables.forget(unused);
  await tables.run('commit');
  return outcomes;
}

/** In a transaction of its own, or in two. */
export async function applyToOwn(
  tables: OwnTables,
  items: readonly Item[],
): Promise<(item: Item) => ApplyOutcome> {
  let outcomes: ReadonlyMap<Item, ApplyOutcome>;
  try {
    outcomes = await applyInOne(tables, items, false);
  } catch (error) {
    if (tables.refusalOf(error) === undefined) throw error;
    // One bad item never fails its neighbours. Savepoints cost two round trips per item, so only now.
    await tables.run('rollback');
    outcomes = await applyInOne(tables, items, true);
  }
  return (item) => outcomes.get(item)!;
}

/** In the caller's snapshot, which the versions come from too: otherwise a version could be paired with an older row. */
export async function readBackOwn(
  tables: Pick<OwnTables, 'readBack'>,
  keys: readonly SubjectKey[],
  versions: ReadonlyMap<string, number | undefined>,
): Promise<readonly (Held | undefined)[]> {
  const held: (Held | undefined)[] = [];
  for (const key of keys) {
    const version = versions.get(nameOf(key));
    const found = await tables.readBack(key);
    held.push(heldByAll(found.map((row) => ({ ...row, version: row.version ?? version }))));
  }
  return held;
}

/**
 * For `abide config check`: what `read_back` must give for the scopes that the store holds, with the server's word for their type.
 * Without it nothing would be verified.
 */
export function refuseColumns(
  scopes: ReadonlyMap<string, unknown>,
  types: { readonly channel: string; readonly scopes: string },
  gives: (column: string, isScopes: boolean) => boolean,
): void {
  for (const column of new Set([...scopes.keys()].map((scope) => (isChannel(scope) ? scope : 'scopes')))) {
    const isScopes = column === 'scopes';
    if (gives(column, isScopes)) continue;
    const type = isScopes ? types.scopes : types.channel;
    throw new AbideError('STORE_FAILED', `statements.read_back: gives no ${type} column ${column}.`);
  }
}

/** For `abide config check`: what was applied just now must be seen if anybody is there. */
export async function refuseLoss(tables: Pick<OwnTables, 'readBack'>, item: Item): Promise<void> {
  const held = heldByAll(await tables.readBack(item));
  const lost = CHANNELS.find((channel) => channel in item.suppressed && !held?.suppressed.includes(channel));
  if (held === undefined || lost === undefined) return;
  throw new AbideError(
    'STORE_FAILED',
    `statements.read_back does not show the ${lost} that statements.apply suppressed.`,
  );
}

// What an intent makes of its subjects, whether a call of the API brings it (record.ts) or a row of a file (record-in-bulk.ts). The
// subjects are locked first; each intent sees what the one before it made of them.
import { randomUUIDv7 } from 'node:crypto';
import type { Instant, SubjectState } from '../suppression/decision.ts';
import { UNKNOWN_SUBJECT } from '../suppression/decision.ts';
import type { AbideError } from '../suppression/errors.ts';
import { applyOptOut } from '../suppression/precedence.ts';
import type { Scope } from '../suppression/scope.ts';
import type { OptOutIntent } from './contract/opt-outs.ts';
import { byEveryMatch } from './subject-key.ts';
import type { SubjectKey } from './subject-key.ts';

const HOUR_MS = 3_600_000;

/** A subject whose row is locked, or that does not exist yet. */
export type Locked = { id: string; state: SubjectState; isNew: boolean; changed: boolean; erased: boolean };

export type LockedRow = {
  readonly id: string;
  readonly match: string;
  readonly version: number;
  readonly state: SubjectState['suppressed'];
  readonly granted: SubjectState['granted'];
  readonly erased: boolean;
};

/**
 * Common table expression `locked`: $1 match keys, $2 pepper. The order is the same everywhere, so that no two transactions wait
 * for each other. The clock is read after it, once every lock was waited for.
 */
export const LOCKED = `locked as materialized (
    select s.id, encode(s.match_key, 'hex') as match, s.version, s.state, s.granted, s.sealed is null as erased
    from subjects s where s.match_key = any ($1::bytea[]) and is_newest_pepper($2)
    order by s.match_key for update
  )`;

/** By match key, in hexadecimal. */
export function toLocked(
  rows: readonly LockedRow[] | null,
  keys: readonly SubjectKey[],
): Map<string, Locked> {
  const currentOf = byEveryMatch(keys);
  return new Map(
    (rows ?? []).map(({ id, match, version, state, granted, erased }) => [
      currentOf(match),
      { id, state: { version, suppressed: state, granted }, isNew: false, changed: false, erased },
    ]),
  );
}

/** The locked subject of each of these match keys, or a new one if there is none. */
export const namedBy = (
  keys: readonly { readonly hex: string }[],
  subjects: ReadonlyMap<string, Locked>,
): Locked[] =>
  keys.map(
    ({ hex }) =>
      subjects.get(hex) ?? {
        id: randomUUIDv7(),
        state: UNKNOWN_SUBJECT,
        isNew: true,
        changed: false,
        erased: false,
      },
  );

/** What the fold must know of earlier opt-outs; `Before` is all that its caller wants to know of one. */
export type Looks<Before> = {
  /** The same opt-out of these subjects together: same scopes and stated date. */
  readonly same: (
    named: readonly Locked[],
    scopes: readonly Scope[],
    effectiveAt: Instant,
  ) => Promise<Before | undefined>;
  /** The newest opt-out whose resulting state first covered all of the scopes, for all of the subjects together. */
  readonly covering: (named: readonly Locked[], scopes: readonly Scope[]) => Promise<Before | undefined>;
  /** Pays for what is recorded: one per person newly opted out, at least one. Returns what to answer if that is too much. */
  readonly spend: (count: number) => AbideError | undefined;
  /** What to answer if the caller must not be told that this existed before. */
  readonly tell: (before: Before) => AbideError | undefined;
};

export type Folded<Before> =
  /** More than an hour ahead. */
  | { readonly kind: 'too_far_ahead' }
  /** The budget of the caller's key is spent. */
  | { readonly kind: 'exhausted'; readonly error: AbideError }
  | {
      readonly kind: 'already_opted_out' | 'already_recorded';
      readonly before: Before;
      readonly adjusted: boolean;
    }
  /** Each of the named subjects is changed: one that is suppressed already is decided again. */
  | {
      readonly kind: 'recorded';
      readonly id: string;
      readonly effectiveAt: Instant;
      readonly isStated: boolean;
      readonly adjusted: boolean;
    };

/** Changes the states of `named` to what they are after this intent; if it is not recorded, a repeat may widen dates. */
export async function foldIntent<Before>(
  intent: Pick<OptOutIntent, 'scopes' | 'effectiveAt'>,
  named: readonly Locked[],
  { receivedAt, nowMs }: { readonly receivedAt: Instant; readonly nowMs: number },
  looks: Looks<Before>,
): Promise<Folded<Before>> {
  const { scopes } = intent;
  const ahead = intent.effectiveAt === undefined ? 0 : Date.parse(intent.effectiveAt) - nowMs;
  if (ahead > HOUR_MS) return { kind: 'too_far_ahead' };
  const adjusted = ahead > 0;
  const effectiveAt = intent.effectiveAt === undefined || adjusted ? receivedAt : intent.effectiveAt;

  // After a grant, the same dated opt-out once more is a late retry, not a change of mind.
  if (
    intent.effectiveAt !== undefined &&
    named.some(({ state }) => scopes.some((scope) => state.granted[scope] !== undefined))
  ) {
    const before = await looks.same(named, scopes, effectiveAt);
    if (before !== undefined) {
      const error = looks.tell(before);
      return error === undefined
        ? { kind: 'already_recorded', before, adjusted }
        : { kind: 'exhausted', error };
    }
  }
  const id = randomUUIDv7();
  const effects = named.map(({ state }) => applyOptOut(state, { id, scopes, effectiveAt }));
  // Whoever was erased and asks again gives the address again, to stores that could not be told meanwhile as well.
  const isBack = named.some(({ erased, changed }) => erased && !changed);
  if (!isBack && effects.every(({ kind }) => kind === 'already_opted_out')) {
    // If each was opted out separately, it is news that they are one person: they get an opt-out together.
    const before = await looks.covering(named, scopes);
    if (before !== undefined) {
      const error = looks.tell(before);
      if (error !== undefined) return { kind: 'exhausted', error };
      for (const [n, effect] of effects.entries()) {
        if (effect.kind !== 'already_opted_out' || !effect.widened) continue;
        named[n]!.state = effect.state;
        named[n]!.changed = true;
      }
      return { kind: 'already_opted_out', before, adjusted };
    }
  }
  // That they are one person has a price as well: otherwise every pair of people who opted out could be decided again for nothing.
  const error = looks.spend(Math.max(1, effects.filter(({ kind }) => kind !== 'already_opted_out').length));
  if (error !== undefined) return { kind: 'exhausted', error };
  for (const [n, locked] of named.entries()) {
    // A subject that is suppressed already is decided again, so that the opt-out has evidence for each of its subjects.
    locked.state = { ...effects[n]!.state, version: locked.state.version + 1 };
    locked.changed = true;
  }
  return {
    kind: 'recorded',
    id,
    effectiveAt,
    isStated: intent.effectiveAt !== undefined && !adjusted,
    adjusted,
  };
}

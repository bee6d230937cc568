// What a newly received opt-out or grant does to a subject. Decided here once, in version order; stores never compare
// times. Opt-outs only accumulate; only the person's own later grant takes away; on a tie the opt-out stands.
import type { Granted, Instant, SubjectState, Suppressed } from './decision.ts';

export type OptOutEffect =
  /** At least one scope is newly suppressed: a new version. */
  | { readonly kind: 'recorded'; readonly state: SubjectState }
  /** Every scope was suppressed already; at most the dates widen, without a version. */
  | { readonly kind: 'already_opted_out'; readonly state: SubjectState; readonly widened: boolean };

/** A newly received opt-out always suppresses, whatever its date. Exact membership counts, not coverage. */
export function applyOptOut(
  state: SubjectState,
  optOut: { readonly id: string; readonly scopes: readonly string[]; readonly effectiveAt: Instant },
): OptOutEffect {
  const suppressed: Record<string, Suppressed> = { ...state.suppressed };
  const granted: Record<string, Granted> = { ...state.granted };
  let isNew = false;
  let widened = false;
  for (const scope of optOut.scopes) {
    const held = suppressed[scope];
    if (held === undefined) {
      isNew = true;
      // eslint-disable-next-line @typescript-eslint/no-dynamic-delete -- keys are validated scopes of a fresh copy
      delete granted[scope];
      suppressed[scope] = {
        first_effective_at: optOut.effectiveAt,
        last_effective_at: optOut.effectiveAt,
        opt_out_id: optOut.id,
      };
      continue;
    }
    const first = optOut.effectiveAt < held.first_effective_at ? optOut.effectiveAt : held.first_effective_at;
    const last = optOut.effectiveAt > held.last_effective_at ? optOut.effectiveAt : held.last_effective_at;
    if (first === held.first_effective_at && last === held.last_effective_at) continue;
    widened = true;
    suppressed[scope] = { ...held, first_effective_at: first, last_effective_at: last };
  }
  return isNew
    ? { kind: 'recorded', state: { version: state.version + 1, suppressed, granted } }
    : { kind: 'already_opted_out', state: { version: state.version, suppressed, granted }, widened };
}

export type GrantEffect =
  | { readonly kind: 'granted'; readonly state: SubjectState }
  /** Not later than the opt-out of a scope it names, or ahead of the database's clock. */
  | { readonly kind: 'refused'; readonly scopes: readonly string[] }
  | { readonly kind: 'nothing_to_grant' };

/** The person's own later consent: only if later than `last_effective_at` of every suppressed scope that it names. */
export function applyGrant(
  state: SubjectState,
  grant: { readonly scopes: readonly string[]; readonly at: Instant },
  now: Instant,
): GrantEffect {
  const named = grant.scopes.filter((scope) => state.suppressed[scope] !== undefined);
  const refused = named.filter((scope) => grant.at <= state.suppressed[scope]!.last_effective_at);
  if (grant.at > now) return { kind: 'refused', scopes: named };
  if (refused.length > 0) return { kind: 'refused', scopes: refused };
  if (named.length === 0) return { kind: 'nothing_to_grant' };
  const version = state.version + 1;
  const lifted = new Set(named);
  return {
    kind: 'granted',
    state: {
      version,
      suppressed: Object.fromEntries(
        Object.entries(state.suppressed).filter(([scope]) => !lifted.has(scope)),
      ),
      granted: {
        ...state.granted,
        ...Object.fromEntries(named.map((scope) => [scope, { at: grant.at, version }])),
      },
    },
  };
}

// Reads the cells of a row as an opt-out, by the same rules as a call's: what cannot be read is an error of its column, and nothing
// of the row is recorded.
import type { Import, ImportRow, RowError } from '../../ledger/contract/imports.ts';
import { REASONS } from '../../ledger/contract/opt-outs.ts';
import type { Reason } from '../../ledger/contract/opt-outs.ts';
import type { Instant } from '../../suppression/decision.ts';
import { normalise } from '../../suppression/subject.ts';
import { SUBJECT_KINDS } from '../../suppression/subject-kind.ts';
import type { Subject } from '../../suppression/subject.ts';
import { isDeclared } from '../../suppression/scope.ts';
import type { Scope } from '../../suppression/scope.ts';
import { toInstant } from '../../suppression/instant.ts';
import type { Column, FileRow } from './read-file.ts';

const SCOPES_MAX = 50;
/** Files say the same few scopes again and again. */
const REMEMBERED_MAX = 1_000;

export type ReadRow = (row: FileRow) => ImportRow | readonly RowError[];

export function createReadRow({ defaults, readBy }: Pick<Import, 'defaults' | 'readBy'>): ReadRow {
  const remembered = new Map<string, readonly Scope[] | undefined>();

  function scopesOf(cell: unknown): readonly Scope[] | undefined {
    if (typeof cell !== 'string') return Array.isArray(cell) ? toScopes(cell) : undefined;
    if (remembered.has(cell)) return remembered.get(cell);
    const scopes = toScopes(cell.split(/[\s;]+/).filter((word) => word !== ''));
    if (remembered.size < REMEMBERED_MAX) remembered.set(cell, scopes);
    return scopes;
  }

  function toScopes(words: readonly unknown[]): readonly Scope[] | undefined {
    if (words.length === 0 || words.length > SCOPES_MAX) return undefined;
    const scopes = words.filter(
      (word): word is Scope => typeof word === 'string' && isDeclared(word, readBy),
    );
    return scopes.length === words.length ? [...new Set(scopes)] : undefined;
  }

  return (given) => {
    const { row, line } = given;
    if (!('cells' in given)) return [{ row, line, column: given.column, code: given.code }];
    const { cells } = given;
    const errors: RowError[] = [];
    const wrong = (column: Column | undefined, code: RowError['code']): undefined => {
      errors.push({ row, line, column, code });
    };

    const subjects: Subject[] = [];
    for (const kind of SUBJECT_KINDS) {
      const cell = cells[kind];
      if (isEmpty(cell)) continue;
      const normal = typeof cell === 'string' ? normalise(kind, cell, readBy.defaultRegion) : undefined;
      if (normal?.ok === true) subjects.push({ kind, value: normal.value });
      else wrong(kind, 'invalid');
    }
    if (subjects.length === 0 && errors.length === 0) wrong(undefined, 'missing');

    const scopes = isEmpty(cells.scopes)
      ? (defaults.scopes ?? wrong('scopes', 'missing'))
      : (scopesOf(cells.scopes) ?? wrong('scopes', 'invalid'));

    let effectiveAt: Instant | undefined = defaults.effectiveAt;
    if (!isEmpty(cells.effective_at)) {
      effectiveAt = typeof cells.effective_at === 'string' ? toInstant(cells.effective_at.trim()) : undefined;
      if (effectiveAt === undefined) wrong('effective_at', 'invalid');
    }

    let reason: Reason | undefined = defaults.reason;
    if (!isEmpty(cells.reason)) {
      reason = REASONS.find((one) => typeof cells.reason === 'string' && one === cells.reason.trim());
      if (reason === undefined) wrong('reason', 'invalid');
    }
    if (errors.length > 0 || scopes === undefined || reason === undefined) return errors;
    return { row, line, subjects, scopes, effectiveAt, reason };
  };
}

/** Whether a row has nothing in this column. */
const isEmpty = (cell: unknown): boolean =>
  cell === undefined || cell === null || (typeof cell === 'string' && cell.trim() === '');

// What guards in all kinds of databases share: which columns they watch, and what they are called.
import { hash } from 'node:crypto';
import type { GuardedTable } from '../../config/configuration.ts';
import { AbideError } from '../../suppression/errors.ts';
import { CHANNELS } from '../../suppression/scope.ts';
import type { Channel } from '../../suppression/scope.ts';
import type { SubjectKind } from '../../suppression/subject-kind.ts';

export const LOG_TABLE = 'abide_guard_log';

/** Characters that are no part of an address at its ends: ECMAScript's white space and line ends, as `trim` in the normal form. */
export const SPACES =
  '\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff';

/**
 * Anything longer is nobody's, and not looked at: composing marks and trimming by a pattern take time that grows with the square of
 * the length, and one row of junk in a wide column held an import up for minutes.
 */
export const LONGEST: Readonly<Record<SubjectKind, number>> = {
  email: 1_000,
  phone: 1_000,
  push_token: 5_000,
  person_id: 1_000,
};

/** Characters that no address has, and that cannot be seen in one. */
const UNSEEN = '\u00ad\u200b-\u200f\u2060-\u2064';
/** A sigma that the normal form spells otherwise, which lower() leaves so. Beside letters of a third script any counts as one. */
const ODD_SIGMA =
  '[a-z\u0080-\u{10ffff}]σ([^a-z\u0370-\u03ff\u1f00-\u1fff]|$)|(^|[^a-z\u0370-\u03ff\u1f00-\u1fff])ς|ς[a-z\u0080-\u{10ffff}]';
/** An address in its normal form, as an expression that both databases understand; the store holds nobody with any other. */
export const ADDRESS = `^(?!.*(${ODD_SIGMA}))[^@"(),:;<>\\[\\]\\\\${SPACES}${UNSEEN}]+@([a-z0-9_-]+[.])+[a-z0-9-]+$`;

/** What the guard needs to know of a store. */
export type GuardedStore = {
  readonly name: string;
  readonly formerly: string | undefined;
  /** How to get in, perhaps as somebody who may do more than the store's own worker. */
  readonly url: string;
  /** The connector's own table, as the configuration names it. */
  readonly suppressions: string;
  readonly isHashed: boolean;
  readonly tables: readonly GuardedTable[];
};

/** One column: its channel, and its value if the channel is suppressed. */
export type GuardedColumn = { readonly channel: Channel; readonly column: string; readonly held: boolean };

export const columnsOf = ({ may_send, suppressed }: GuardedTable): GuardedColumn[] =>
  CHANNELS.flatMap((channel) => [
    ...(may_send[channel] === undefined ? [] : [{ channel, column: may_send[channel], held: false }]),
    ...(suppressed[channel] === undefined ? [] : [{ channel, column: suppressed[channel], held: true }]),
  ]);

/** Begins the names of all that belongs to one store, so that it is found again whatever the configuration says by then. */
export const prefixOf = (store: string): string => `abide_guard_${hash('sha256', store, 'hex').slice(0, 8)}_`;

export const nameOf = (store: string, table: GuardedTable): string =>
  prefixOf(store) + hash('sha256', JSON.stringify([table.table, table.key, table.kind]), 'hex').slice(0, 8);

/** A store that was renamed goes by two names: what was made under the old one is its own as well. */
export const namesOf = ({ name, formerly }: GuardedStore): string[] =>
  formerly === undefined ? [name] : [name, formerly];

/** How one column of one table is guarded. */
export type GuardState = {
  readonly table: string;
  readonly kind: string;
  readonly channel: Channel;
  readonly column: string;
  /** `outdated`: it is there, but is not what this configuration would make. */
  readonly state: 'installed' | 'outdated' | 'absent';
  /** Contacts to whom the column allows sending although the store holds them suppressed. */
  readonly resurrected: number;
  /** Rows whose key SQL cannot bring into the store's form: the guard does not know who they are. */
  readonly unreadable: number;
};

/** The states of a table's columns; `counted` is a row with `column_0` and so on, and `unreadable`. */
export const statesOf = (
  table: GuardedTable,
  state: GuardState['state'],
  counted: Readonly<Record<string, number>>,
): GuardState[] =>
  columnsOf(table).map(({ channel, column }, n) => ({
    table: table.table,
    kind: table.kind,
    channel,
    column,
    state,
    resurrected: counted[`column_${n}`]!,
    unreadable: counted['unreadable']!,
  }));

/** The statements that remove it, and why they do not drop the log although nobody asked to keep it. */
export type Removal = { readonly statements: readonly string[]; readonly logStays: string | undefined };

export const OTHERS_WRITE = 'the guard of another store writes to it';

/** The guard of one store's tables, in any kind of database. */
export type Guard = AsyncDisposable & {
  /** The statements that install it, or bring it up to the configuration; the last ones hold down what is enabled already. */
  installing(): Promise<readonly string[]>;
  removing(options: { readonly keepLog: boolean }): Promise<Removal>;
  /** Runs the statements and gives the number of rows that they changed. */
  run(statements: readonly string[]): Promise<number>;
  status(): Promise<readonly GuardState[]>;
  /** Attempts logged; undefined if there is no log. */
  logged(): Promise<number | undefined>;
};

/** A guard with the names of the tables that the configuration has. */
export type ConfiguredGuard = Guard & { readonly tables: readonly string[] };

/** Neither database makes such a trigger for one; what is written through it fires those of its table. */
export const IS_VIEW = (table: string): string =>
  `${table} is a view: name the table that its rows are written to.`;
/** What the database says of it names the constraint, and shows nothing of a row. */
export const CHECKED = (what: string): string =>
  `A check of yours does not let the guard set a column (${what}): change it, since every write that the guard would correct fails by it.`;
export const refuse = (detail: string): AbideError => new AbideError('GUARD_FAILED', detail);

/**
 * A number with its national prefix after the country code (+44 020 …, +1 1 202 …, +7 8 912 …), or without what the library adds to
 * it, has another normal form than its digits, and SQL cannot know which countries drop or add what. These do, as far as their
 * codes and lengths tell, and such a number is not read. They are expressions that both databases understand.
 */
export const NATIONAL_PREFIX = `^[+](${[
  // A zero.
  '(1|7|20|27|3[0-46]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|(2[1-689]|3[578]|42|5[09]|6[789]|8[0578]|9[679])[0-9])0',
  // North America and the Marshall Islands dial 1 first; Russia, Kazakhstan, Lithuania, Belarus and Turkmenistan 8.
  '11|6921[0-9]{7}|78[0-9]{10}|3708[0-9]{8}|3758|9938[0-9]{8}',
  // A mobile number of Argentina with its 15, one of Brazil that is called collect, one of China through another carrier.
  '54[1-8][0-9]{11}|5590|861[0-9]{11}',
  // Numbers within Madagascar's, San Marino's and Norfolk Island's towns.
  '261[24-9][0-9]{6}$|378[89][0-9]{5}$|672[0-258][0-9]{4}$',
].join('|')})`;
/** Numbers that begin with a zero and keep it; of Gabon's, the new ones drop it. */
export const OWN_ZERO = '^[+]((225|229|242|378)0|2410[0-9]{0,7}$)';

/** What a key spends per day: people newly opted out, grants tried, people asked about. */
export const DIRECTIONS = ['opt_out', 'grant', 'check'] as const;
export type Direction = (typeof DIRECTIONS)[number];

/** How much of each a key may spend per day (UTC), together with the keys of its lineage; undefined: no limit. */
export type Budgets = {
  readonly lineage: string;
  readonly perDay: Readonly<Record<Direction, number | undefined>>;
};

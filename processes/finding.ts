/** One thing that `abide doctor` looked at. */
export type Finding = {
  readonly what: string;
  readonly state: 'fine' | 'attention' | 'broken';
  readonly says: string;
  /** What to do; undefined if there is nothing to do. */
  readonly fix?: string;
};

export const fine = (what: string, says: string): Finding => ({ what, state: 'fine', says });
export const attention = (what: string, says: string, fix: string): Finding => ({
  what,
  state: 'attention',
  says,
  fix,
});
export const broken = (what: string, says: string, fix: string): Finding => ({
  what,
  state: 'broken',
  says,
  fix,
});

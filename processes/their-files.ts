/** The files of the user's own that were loaded, as they stand in a stack. */
const theirFiles = new Set<string>();

export function noteTheirs(file: URL): void {
  theirFiles.add(file.href);
}

/** Whether an error that nobody caught comes from a connector's file: that must not end what carries to the other stores. */
export const isTheirs = (error: unknown): boolean =>
  error instanceof Error && [...theirFiles].some((file) => error.stack?.includes(file) === true);

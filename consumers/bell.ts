/** A loop waits at the bell, and anybody who has something for it rings. */
export function createBell() {
  let wakeUp: (() => void) | undefined;
  let rung = false;
  return {
    wake: (): void => {
      rung = true;
      wakeUp?.();
    },
    /** Waits until the bell rings, or has rung since the last wait, or the time is over. */
    wait: async (ms: number): Promise<void> => {
      if (!rung) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, ms);
          wakeUp = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      }
      rung = false;
      wakeUp = undefined;
    },
  };
}

export class Counter {
  #value = 0;

  up() {
    this.#value += 1;
  }

  get value() {
    return this.#value;
  }
}

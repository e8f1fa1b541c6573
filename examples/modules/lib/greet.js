// Modules may import one another, in circles too.
import { Counter } from "./counter.js";

const counter = new Counter();

export const greetings = () => counter.value;

/** @param {string} name */
export default function greet(name) {
  counter.up();
  return `hello ${name}`;
}

/* See plot_sustained.h. */
#include "bench/plot_sustained.h"

static double number_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

void bench_plot_sustained(FILE *f, const json_t *of)
{
    const json_t *samples = json_object_get(of, "gb_per_s_samples"), *steps = json_object_get(of, "steps"),
                 *s;
    double interval = number_of(of, "interval_s"), recovered = number_of(of, "recovered_gb_per_s");
    size_t i;

    fputs("$rate << END\n", f);
    json_array_foreach(samples, i, s)
        fprintf(f, "%g %g\n", ((double)i + 0.5) * interval, json_number_value(s));
    fputs("END\n$steps << END\n", f);
    json_array_foreach(steps, i, s)
    {
        fprintf(f, "%g %g\n%g %g\n", number_of(s, "start_s"), number_of(s, "gb_per_s"), number_of(s, "end_s"),
                number_of(s, "gb_per_s"));
    }
    fputs("END\n$words << END\n", f);
    json_array_foreach(steps, i, s)
        fprintf(f, "%g %g %.3g\n", (number_of(s, "start_s") + number_of(s, "end_s")) / 2,
                number_of(s, "gb_per_s"), number_of(s, "gb_per_s"));
    fputs("END\nset title \"Writing without a pause: each 0.1 s, and steps\"\nset xlabel \"seconds\"\nset "
          "xrange [0:*]\n"
          "set yrange [0:*]\nplot $rate using 1:2 with lines lw 1 lc rgb '#9ab8dd' title \"each 0.1 s\", \\\n"
          "  $steps using 1:2 with lines lw 2.5 lc rgb '#d1495b' title \"steps\", \\\n"
          "  $words using 1:2:3 with labels offset 0,1 notitle",
          f);
    if (recovered > 0)
        fprintf(f, ", \\\n  %g with lines dt 2 lw 1.5 lc rgb '#1f9e89' title \"after %g s of rest\"",
                recovered, number_of(of, "idle_s"));
    fputc('\n', f);
}

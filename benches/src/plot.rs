//! The plot: what a call costs the server, beside the floor, by callers.

use std::path::Path;

use plotters::prelude::*;

use crate::{
    Failed,
    report::{Report, Row},
};

const SERVERS: [(&str, RGBColor); 4] = [
    ("floor", RGBColor(148, 163, 184)),
    ("bare requests", RGBColor(180, 148, 110)),
    ("null audit", RGBColor(96, 165, 250)),
    ("vault", RGBColor(30, 64, 175)),
];

/// Draws `report` to `path`.
pub(crate) fn draw(report: &Report, path: &Path) -> Result<(), Failed> {
    let callers: Vec<usize> = report.rows.iter().filter(|row| row.server == "floor").map(|row| row.callers).collect();
    let most = report.rows.iter().filter(|row| row.server != "rotations").map(|row| row.cpu_us).fold(1.0, f64::max);
    let root = SVGBackend::new(path, (720, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Server CPU for each RetrieveKey, microseconds", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..callers.len() as f64, 0.0..most * 1.1)?;
    let label = |at: &f64| callers.get(*at as usize).map_or_else(String::new, |n| format!("{n} callers"));
    chart.configure_mesh().disable_x_mesh().x_labels(callers.len()).x_label_formatter(&label).draw()?;
    let is_there = |server: &str| report.rows.iter().any(|row| row.server == server);
    let servers: Vec<_> = SERVERS.iter().filter(|(server, _)| is_there(server)).collect();
    let width = 0.81 / servers.len().max(1) as f64;
    for (place, (server, colour)) in servers.into_iter().enumerate() {
        let bars = callers.iter().enumerate().filter_map(|(group, callers)| {
            let row: &Row = report.row(server, *callers)?;
            let left = group as f64 + 0.1 + width * place as f64;
            Some(Rectangle::new([(left, 0.0), (left + width - 0.02, row.cpu_us)], colour.filled()))
        });
        let colour = *colour;
        chart
            .draw_series(bars)?
            .label(*server)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
    root.present()?;
    Ok(())
}

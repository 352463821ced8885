"""`mvig-nas docs`: the pages of documentation, also where only the wheel is installed."""

import click


@click.command()
@click.argument("name", required=False)
def docs(name: str | None) -> None:
    """Print the page of documentation called NAME, or list the pages."""
    from mvig_nas import shipped

    if name is None:
        for each in shipped.page_names():
            title = shipped.page(each).splitlines()[0].removeprefix("# ")
            click.echo(f"{each:<22}{title}")
        click.echo("\nNext: mvig-nas docs NAME")
        return
    text = shipped.page(name)
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        from rich.markdown import Markdown

        console.print(Markdown(text))
    else:
        click.echo(text)
